//! A store that lies: it fails, stalls, is late, gives back other bits, fewer of them or another object, loses and tears what
//! it was given, and says that all went well. What it does is decided by a seed.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Backend, Body, Fault, Hold, Meta, Mode, Replaced, Version, Versioned, Written};
use crate::{Direction, FaultKind};

/// How often each fault happens, of 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) error: f64,
    pub(crate) stall: f64,
    pub(crate) late: f64,
    pub(crate) bit_flip: f64,
    pub(crate) short: f64,
    pub(crate) misdirected: f64,
    pub(crate) lost: f64,
    pub(crate) torn: f64,
}

/// The store in front of another one.
pub(crate) struct Lying {
    inner: Arc<dyn Backend>,
    state: Mutex<State>,
}

struct State {
    rng: SmallRng,
    faults: Faults,
    /// An object that was read or written, to be taken for another one.
    last: Option<Body>,
}

impl Lying {
    pub(crate) fn new(inner: Arc<dyn Backend>, seed: u64, faults: Faults) -> Arc<Self> {
        Arc::new(Self {
            inner,
            state: Mutex::new(State {
                rng: SmallRng::seed_from_u64(seed),
                faults,
                last: None,
            }),
        })
    }

    /// From now on it tells the truth.
    pub(crate) fn repent(&self) {
        self.state.lock().unwrap().faults = Faults::default();
    }

    fn chance(&self, of: impl Fn(&Faults) -> f64) -> bool {
        let mut state = self.state.lock().unwrap();
        let chance = of(&state.faults);
        state.rng.random_bool(chance)
    }

    fn number(&self, range: Range<usize>) -> usize {
        self.state.lock().unwrap().rng.random_range(range)
    }

    /// What comes before every answer.
    async fn pass(&self) -> Result<(), Fault> {
        if self.chance(|faults| faults.late) {
            tokio::time::sleep(Duration::from_millis(self.number(1..20) as u64)).await;
        }
        if self.chance(|faults| faults.stall) {
            // Until it is dropped, or until all is well again.
            while self.chance(|faults| f64::from(u8::from(faults.stall > 0.0))) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        if self.chance(|faults| faults.error) {
            let kind = FaultKind::ALL[self.number(1..FaultKind::ALL.len())];
            return Err(Fault::new(kind, "as the test asked for"));
        }
        Ok(())
    }

    fn distort(&self, mut body: Body) -> Body {
        let mut bytes = body.pieces.concat();
        if self.chance(|faults| faults.bit_flip) && !bytes.is_empty() {
            let at = self.number(0..bytes.len());
            bytes[at] ^= 1 << self.number(0..8);
        }
        if self.chance(|faults| faults.short) {
            bytes.truncate(self.number(0..bytes.len() + 1));
            if self.number(0..2) == 0 {
                body.object_bytes = bytes.len() as u64;
            }
        }
        let copy = |bytes: &[u8]| Body {
            pieces: vec![Bytes::copy_from_slice(bytes)],
            object_bytes: bytes.len() as u64,
        };
        let last = self.state.lock().unwrap().last.replace(copy(&bytes));
        if self.chance(|faults| faults.misdirected)
            && let Some(last) = last
        {
            return last;
        }
        body.pieces = vec![bytes.into()];
        body
    }
}

#[async_trait]
impl Backend for Lying {
    fn describe(&self) -> String {
        format!("lying, {}", self.inner.describe())
    }

    async fn put(&self, name: &str, object: Bytes, mode: Mode, hold: Hold) -> Result<Written, Fault> {
        self.pass().await?;
        if self.chance(|faults| faults.lost) {
            return Ok(Written::New);
        }
        let object = if self.chance(|faults| faults.torn) {
            object.slice(..self.number(0..object.len()))
        } else {
            object
        };
        let written = self.inner.put(name, object, mode, hold).await;
        // It may be there and nobody hears of it.
        self.pass().await?;
        written
    }

    async fn get(&self, name: &str, range: Range<u64>, hold: Hold) -> Result<Option<Body>, Fault> {
        self.pass().await?;
        if self.chance(|faults| faults.lost) {
            return Ok(None);
        }
        let body = self.inner.get(name, range, hold).await?;
        Ok(body.map(|body| self.distort(body)))
    }

    async fn exist(&self, names: &[String], hold: Hold) -> Vec<Result<bool, Fault>> {
        if let Err(fault) = self.pass().await {
            return vec![Err(fault); names.len()];
        }
        let mut found = self.inner.exist(names, hold).await;
        for answer in found.iter_mut().flatten() {
            *answer ^= self.chance(|faults| faults.lost);
        }
        found
    }

    async fn delete(&self, names: Vec<String>, hold: Hold) -> Result<u64, Fault> {
        self.pass().await?;
        if self.chance(|faults| faults.lost) {
            return Ok(names.len() as u64);
        }
        self.inner.delete(names, hold).await
    }

    async fn put_small(&self, name: &str, bytes: Bytes) -> Result<Written, Fault> {
        self.pass().await?;
        self.inner.put_small(name, bytes).await
    }

    async fn get_small(&self, name: &str, bytes_max: u64) -> Result<Option<Versioned>, Fault> {
        self.pass().await?;
        self.inner.get_small(name, bytes_max).await
    }

    async fn replace_small(
        &self,
        name: &str,
        bytes: Bytes,
        expected: Option<Version>,
    ) -> Result<Replaced, Fault> {
        self.pass().await?;
        self.inner.replace_small(name, bytes, expected).await
    }

    async fn list(&self, directory: &str, after: Option<&str>, most: usize) -> Result<Vec<Meta>, Fault> {
        self.pass().await?;
        self.inner.list(directory, after, most).await
    }

    async fn directories(&self, directory: &str) -> Result<Vec<String>, Fault> {
        self.pass().await?;
        self.inner.directories(directory).await
    }

    async fn now(&self) -> Result<SystemTime, Fault> {
        self.pass().await?;
        self.inner.now().await
    }

    async fn probe(&self, direction: Direction) -> Result<(), Fault> {
        self.pass().await?;
        self.inner.probe(direction).await
    }
}
