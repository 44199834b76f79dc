//! A router as llm-d's is: it counts announcements, and it knows a block only through its parent.

use std::collections::{BTreeMap, BTreeSet};

use kvstore_types::BlockHash;

use super::decode::{Event, decode_batch};
use crate::wire::Mix;

type Hash = Vec<u8>;

/// The hash that the daemon knows the block by.
fn own_hash(topic: &str, told: &Hash) -> Hash {
    let told = BlockHash(told.as_slice().try_into().expect("32 bytes"));
    Mix::of(topic).apply(&told).0.to_vec()
}

fn model(topic: &str) -> Option<&str> {
    topic.rsplit('@').next()
}

/// What a router believes.
#[derive(Clone, Debug, Default)]
pub struct Router {
    /// How often each block is announced: by topic, medium, group and hash.
    counts: BTreeMap<(String, String, Option<u64>, Hash), u32>,
    /// Under what each block is known to anybody; a block under nothing is unknown, and nothing can follow it. By the hash on
    /// the wire: a router has one table for all models.
    known: BTreeMap<Hash, BTreeSet<(String, String, Option<u64>)>>,
    /// Tokens of each block.
    tokens: BTreeMap<Hash, Vec<u64>>,
    /// Events that were dropped because the block before them is unknown.
    pub dropped: u64,
    /// Blocks told so far, as stored or as removed.
    pub told: u64,
}

impl Router {
    /// Takes in a message.
    pub fn hear(&mut self, topic: &str, payload: &[u8]) {
        for event in decode_batch(payload) {
            match event {
                Event::Stored {
                    hashes,
                    parent,
                    tokens,
                    block_size,
                    medium,
                    group,
                    ..
                } => {
                    self.told += hashes.len() as u64;
                    assert_eq!(tokens.len() as u64, block_size * hashes.len() as u64);
                    if parent.is_some_and(|parent| !self.known.contains_key(&parent)) {
                        self.dropped += 1;
                        continue;
                    }
                    let size = usize::try_from(block_size).unwrap();
                    for (told, tokens) in hashes.into_iter().zip(tokens.chunks(size)) {
                        let hash = own_hash(topic, &told);
                        let place = (topic.to_owned(), medium.clone(), group);
                        let key = (place.0.clone(), place.1.clone(), place.2, hash.clone());
                        *self.counts.entry(key).or_default() += 1;
                        let places = self.known.entry(told).or_default();
                        let is_one_models =
                            |(other, ..): &(String, String, Option<u64>)| model(other) == model(topic);
                        assert!(
                            places.iter().all(is_one_models),
                            "a router has one table for all models"
                        );
                        places.insert(place);
                        self.tokens.insert(hash, tokens.to_vec());
                    }
                }
                Event::Removed {
                    hashes,
                    medium,
                    group,
                } => {
                    self.told += hashes.len() as u64;
                    for hash in hashes {
                        self.removed(topic, &medium, group, &hash);
                    }
                }
                Event::Cleared => self.clear(topic),
            }
        }
    }

    /// Everything of a pod goes, whatever the model.
    fn clear(&mut self, topic: &str) {
        let is_its = |place: &str| place.split('@').nth(1) == topic.split('@').nth(1);
        self.counts.retain(|(place, ..), _| !is_its(place));
        for places in self.known.values_mut() {
            places.retain(|(place, ..)| !is_its(place));
        }
        self.known.retain(|_, places| !places.is_empty());
        let counted: BTreeSet<&Hash> = self.counts.keys().map(|(.., hash)| hash).collect();
        self.tokens.retain(|hash, _| counted.contains(hash));
    }

    fn removed(&mut self, topic: &str, medium: &str, group: Option<u64>, told: &Hash) {
        let hash = own_hash(topic, told);
        let place = (topic.to_owned(), medium.to_owned(), group);
        let key = (place.0.clone(), place.1.clone(), group, hash.clone());
        let Some(count) = self.counts.get_mut(&key) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.counts.remove(&key);
        if let Some(places) = self.known.get_mut(told) {
            places.remove(&place);
            if places.is_empty() {
                self.known.remove(told);
                self.tokens.remove(&hash);
            }
        }
    }

    /// Every block that it believes in: topic, medium and hash.
    pub fn blocks(&self) -> BTreeSet<(String, String, Hash)> {
        self.counts
            .keys()
            .map(|(topic, medium, _, hash)| (topic.clone(), medium.clone(), hash.clone()))
            .collect()
    }

    /// Blocks of one topic and medium.
    pub fn count(&self, topic: &str, medium: &str) -> usize {
        self.counts
            .keys()
            .filter(|(its_topic, its_medium, _, _)| its_topic == topic && its_medium == medium)
            .count()
    }

    /// The highest count of any block: above 1, a removal would leave it behind.
    pub fn count_max(&self) -> u32 {
        self.counts.values().copied().max().unwrap_or(0)
    }

    /// The tokens of a block.
    pub fn tokens(&self, hash: &[u8]) -> Option<&[u64]> {
        self.tokens.get(hash).map(Vec::as_slice)
    }
}
