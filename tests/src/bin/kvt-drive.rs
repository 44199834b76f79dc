//! Plays an engine for tests in other languages: one command a line on standard input, one answer a line on standard
//! output, both JSON.
//!
//! ```text
//! {"do":"attach","socket":"…","model":"m","pod":"127.0.0.1:8000","tokens_per_block":64,"block_bytes":16384,"windows":[0]}
//! {"do":"store","first":1000,"count":256,"lora":null}   {"published":4,"present":0,"dropped":0}
//! {"do":"load","first":1000,"count":256,"lora":null}    {"hit_tokens":256,"leased":4,"lost":0}
//! {"do":"reset"}    {"do":"counters"}    {"do":"detach"}
//! ```
//!
//! What fails is answered with `{"error":"…"}`. The end of its input ends it, after a good-bye; to die, it is killed.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};

use kvtier_tests::drive::{Attached, Engine, Problem, Sequence};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Command {
    Attach(Engine),
    Store(Sequence),
    Load(Sequence),
    Reset,
    Counters,
    Detach,
}

fn main() -> Result<(), Problem> {
    let mut engine = None;
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout());
    for line in input.lines() {
        let answer =
            obey(&mut engine, &line?).unwrap_or_else(|problem| json!({"error": problem.to_string()}));
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    if let Some(engine) = engine {
        engine.detach();
    }
    Ok(())
}

fn obey(engine: &mut Option<Attached>, line: &str) -> Result<Value, Problem> {
    let command = serde_json::from_str(line)?;
    if let Command::Attach(how) = command {
        *engine = Some(Attached::new(how)?);
        return Ok(json!({}));
    }
    if let Command::Detach = command {
        engine.take().ok_or("no engine is attached")?.detach();
        return Ok(json!({}));
    }
    let engine = engine.as_mut().ok_or("no engine is attached")?;
    Ok(match command {
        Command::Store(sequence) => serde_json::to_value(engine.store(&sequence)?)?,
        Command::Load(sequence) => serde_json::to_value(engine.load(&sequence)?)?,
        Command::Counters => engine.counters()?,
        _ => {
            engine.reset()?;
            json!({})
        }
    })
}
