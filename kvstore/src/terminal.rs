//! What the commands write for people and scripts, where the other end may be closed or full.

use std::io::{self, Write};

use crate::exit::Exit;

/// Writes to standard output. A reader that has gone away (`kvtier status | head`) has read all it wanted: that is no
/// failure. Anything else that keeps the text from arriving is.
pub fn print(text: &str) -> Exit {
    judge(write(text))
}

/// The same for those who go on afterwards: they want to know when nobody reads any more.
pub fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Writes to standard error. If that fails there is nobody left to tell.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Shows what clap has to say, and with what to exit then.
pub fn explain_usage(error: &clap::Error) -> Exit {
    if error.use_stderr() {
        // As above: there is nobody left to tell.
        let _ = error.print();
        return Exit::BadConfig;
    }
    judge(error.print().and_then(|()| io::stdout().flush()))
}

fn judge(result: io::Result<()>) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            complain(&format!("could not write to standard output: {error}"));
            Exit::System
        }
    }
}
