//! Directories that have been harmed: what reading them yields, what a check says, what a repair leaves.

mod fixture;
mod harmed;
mod repair;
