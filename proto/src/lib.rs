//! The admin API's messages: a door to a room that is not built yet.
//!
//! It will own `kvtier/v1/*.proto` and the code generated from them. Until then `kvtier status` asks the daemon
//! over the session socket.
#![forbid(unsafe_code)]
