package model

import "testing"

// Numbers that the router's own token processor gave for these tokens.
func TestKeysAreTheRouters(t *testing.T) {
	tokens := make([]uint32, 64)
	for i := range tokens {
		tokens[i] = 1000 + uint32(i) //nolint:gosec // small
	}
	cases := map[string][]Key{
		"":   {0x6bc6380e066fbf18, 0x46988e1e8398a6da, 0x62580b4a3665a16c, 0x6e55db082c6b6036},
		"42": {0x9970566b1f247198, 0xa138680fef556571, 0x1c733e480c1c6897, 0xcdea5431f8a9100f},
	}
	for seed, want := range cases {
		got := Keys(RootKey(seed, "Qwen/Qwen3-32B"), tokens, nil)
		if len(got) != len(want) {
			t.Fatalf("seed %q: %d keys, want %d", seed, len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("seed %q, block %d: got %016x, want %016x", seed, i, uint64(got[i]), uint64(want[i]))
			}
		}
	}
}
