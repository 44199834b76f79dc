//! Checks and repairs of directories that have been harmed.
