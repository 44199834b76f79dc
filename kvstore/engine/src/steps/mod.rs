//! What the engine does on each event.

mod attach;
mod describe;
mod end;
mod evict;
mod keep;
mod load;
mod lookup;
mod nvme;
mod remote;
mod reserve;
mod reset;
mod seal;
#[cfg(test)]
mod tests;

pub use evict::Evicted;
pub use keep::{Chain, KeepRefusal, KeepView, Kept};
