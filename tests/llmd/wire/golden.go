package wire

import (
	"encoding/json"
	"fmt"
	"os"
)

// Golden is one message whose bytes are fixed: testdata/golden.json holds them, for every implementation to read.
type Golden struct {
	Name     string   `json:"name"`
	Encoding Encoding `json:"encoding"`
	Topic    string   `json:"topic"`
	Sequence uint64   `json:"sequence"`
	// The second and the third frame, in hexadecimal digits.
	SequenceFrame Hash  `json:"sequence_frame"`
	Payload       Hash  `json:"payload"`
	Batch         Batch `json:"batch"`
}

// GoldenFile is all of them.
type GoldenFile struct {
	About string   `json:"about"`
	Cases []Golden `json:"cases"`
}

// ReadGolden reads the file.
func ReadGolden(path string) (GoldenFile, error) {
	var file GoldenFile
	text, err := os.ReadFile(path)
	if err != nil {
		return file, err
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return file, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}
