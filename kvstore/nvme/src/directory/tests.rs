//! What a directory may hold, and what is done about it.
