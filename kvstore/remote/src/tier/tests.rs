//! A tier over every store there is, over two nodes, and over stores that fail.

mod basics;
mod faults;
mod mounts;
mod random;
mod rig;
mod shared_store;
