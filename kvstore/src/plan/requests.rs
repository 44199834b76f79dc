//! Where requests come from: a trace, or a mix of conversations that is made up.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

/// Requests as the names of their prompts' blocks. A name stands for the whole prefix up to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    /// One list for each request, in order.
    pub(crate) blocks: Vec<Vec<u64>>,
    /// Tokens of each block.
    pub(crate) tokens_per_block: u64,
}

/// A line of a trace.
#[derive(Debug, Deserialize)]
struct Line {
    hash_ids: Vec<u64>,
}

/// Longest line of a trace, in bytes.
const LINE_MAX: u64 = 64 << 20;

/// Reads a trace as the Mooncake paper published them: a JSON object a line with `hash_ids`, one id for each block of the
/// prompt, where an id stands for the whole prefix.
///
/// # Errors
/// If it cannot be read, or a line is no such object; the text says which.
pub(crate) fn read_trace(path: &Path, tokens_per_block: u64) -> Result<Requests, String> {
    let place = path.display();
    let file = File::open(path).map_err(|error| format!("{place}: {error}"))?;
    let mut reader = BufReader::new(file);
    let mut requests = Requests {
        blocks: Vec::new(),
        tokens_per_block,
    };
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        let mut limited = std::io::Read::take(&mut reader, LINE_MAX);
        let bytes = limited.read_line(&mut text);
        match bytes.map_err(|error| format!("{place}:{number}: {error}"))? {
            0 => break,
            _ if text.trim().is_empty() => continue,
            _ => {}
        }
        let line: Line = serde_json::from_str(&text)
            .map_err(|error| format!("{place}:{number}: want an object with hash_ids: {error}"))?;
        requests.blocks.push(line.hash_ids);
    }
    if requests.blocks.is_empty() {
        return Err(format!("{place}: there is no request in it"));
    }
    Ok(requests)
}

/// Conversations that begin with the same instructions and go on in turns, all at the same time and in random order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    /// How many there are at a time; one that ends makes room for a new one.
    pub(crate) conversations: u64,
    /// Requests of each.
    pub(crate) turns: u64,
    /// Tokens that all begin with.
    pub(crate) shared_tokens: u64,
    /// Tokens that a question adds to the prompt.
    pub(crate) question_tokens: u64,
    /// Tokens that its answer adds to the next prompt.
    pub(crate) answer_tokens: u64,
    /// Requests to make up.
    pub(crate) requests: u64,
}

/// Most blocks of a made-up mix: a gigabyte of names.
const BLOCKS_MAX: u64 = 1 << 27;

impl Mix {
    /// Refuses what would not fit into memory.
    ///
    /// # Errors
    /// If there would be too many blocks; the text says what helps.
    pub(crate) fn check(&self, tokens_per_block: u64) -> Result<(), String> {
        let turn = self.question_tokens.saturating_add(self.answer_tokens);
        let tokens = self
            .shared_tokens
            .saturating_add(turn.saturating_mul(self.turns / 2 + 1));
        let blocks = self.requests.saturating_mul(tokens / tokens_per_block);
        if blocks <= BLOCKS_MAX {
            return Ok(());
        }
        Err(format!(
            "these requests have about {blocks} blocks, want at most {BLOCKS_MAX}: fewer --requests or --turns, or more \
             --tokens-per-block"
        ))
    }

    /// The same mix makes the same requests.
    pub(crate) fn requests(&self, tokens_per_block: u64) -> Requests {
        let shared = self.shared_tokens / tokens_per_block;
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below.max(1)
        };
        // Each conversation: its turns so far and the number it is known by.
        let mut begun = self.conversations;
        let mut running: Vec<(u64, u64)> = (0..self.conversations).map(|number| (0, number)).collect();
        let mut requests = Requests {
            blocks: Vec::new(),
            tokens_per_block,
        };
        for _ in 0..self.requests {
            let at = usize::try_from(next(running.len() as u64)).unwrap_or(0);
            let Some((turn, number)) = running.get_mut(at) else {
                break;
            };
            let tokens = self.shared_tokens + (*turn + 1) * self.question_tokens + *turn * self.answer_tokens;
            let count = tokens / tokens_per_block;
            // Names of shared blocks begin with 0, those of conversation n with n + 1.
            let name = |block: u64| {
                if block < shared {
                    block
                } else {
                    (*number + 1) << 32 | block
                }
            };
            requests.blocks.push((0..count).map(name).collect());
            *turn += 1;
            if *turn == self.turns {
                (*turn, *number) = (0, begun);
                begun += 1;
            }
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_trace_is_read_line_by_line_and_what_is_none_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(
            file,
            "{{\"timestamp\": 0, \"hash_ids\": [0, 1]}}\n\n{{\"hash_ids\": []}}"
        )
        .unwrap();
        let requests = read_trace(file.path(), 512).unwrap();
        assert_eq!(requests.blocks, [vec![0, 1], vec![]]);
        writeln!(file, "{{\"ids\": 3}}").unwrap();
        let error = read_trace(file.path(), 512).unwrap_err();
        assert!(error.contains(":4: want an object with hash_ids"), "{error}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(read_trace(empty.path(), 512).unwrap_err().contains("no request"));
        assert!(
            read_trace(Path::new("/nowhere"), 512)
                .unwrap_err()
                .starts_with("/nowhere: ")
        );
    }

    #[test]
    fn a_mix_beyond_memory_is_refused() {
        let mix = Mix {
            conversations: 1,
            turns: 1 << 20,
            shared_tokens: 0,
            question_tokens: 1 << 20,
            answer_tokens: 1 << 20,
            requests: 1 << 20,
        };
        assert!(mix.check(1).unwrap_err().contains("want at most 134217728"));
        assert!(
            Mix {
                turns: 4,
                requests: 100,
                ..mix
            }
            .check(512)
            .is_ok()
        );
    }

    #[test]
    fn a_mix_shares_the_beginning_and_grows_by_turns() {
        let mix = Mix {
            conversations: 3,
            turns: 4,
            shared_tokens: 64,
            question_tokens: 32,
            answer_tokens: 16,
            requests: 200,
        };
        let requests = mix.requests(16);
        assert_eq!(requests.blocks.len(), 200);
        let lengths: std::collections::BTreeSet<usize> = requests.blocks.iter().map(Vec::len).collect();
        // 64 shared, then 32 for each question and 16 for each answer before it, in blocks of 16.
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [6, 9, 12, 15]);
        assert!(requests.blocks.iter().all(|blocks| blocks[..4] == [0, 1, 2, 3]));
        assert_eq!(mix.requests(16), requests);
    }
}
