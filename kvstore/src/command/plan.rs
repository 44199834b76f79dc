//! `kvtier plan`: which tier sizes give which hit ratio. Asks no daemon.

use std::fmt::Write;
use std::process::ExitCode;

use super::arguments::PlanOptions;
use super::table::Table;
use crate::config::format_size;
use crate::exit::Exit;
use crate::plan::{Mix, Plan, Requests, Shape, read_trace, svg};
use crate::terminal::{self, complain};

/// Width of the bars of the table's plot, in letters.
const BAR: usize = 40;

/// Computes, prints, and writes the picture if one is wanted.
pub(super) fn run(options: &PlanOptions) -> ExitCode {
    let requests = match requests(options) {
        Ok(requests) => requests,
        Err(text) => {
            complain(&text);
            return Exit::BadConfig.into();
        }
    };
    let shape = options.bytes_per_token.map_or_else(
        || {
            Shape::of(
                options.layers,
                options.kv_heads,
                options.head_size,
                options.value_bytes,
            )
        },
        |bytes_per_token| Shape { bytes_per_token },
    );
    let plan = Plan::new(&requests, shape, options.gpu_memory, &options.sizes);
    if let Some(path) = &options.svg
        && let Err(error) = std::fs::write(path, svg(&plan))
    {
        complain(&format!("{}: {error}", path.display()));
        return Exit::System.into();
    }
    let text = if options.json {
        match serde_json::to_string(&plan) {
            Ok(text) => text + "\n",
            Err(error) => {
                complain(&format!("the plan cannot be shown: {error}"));
                return Exit::System.into();
            }
        }
    } else {
        shown(&plan, options.trace.is_none())
    };
    terminal::print(&text).into()
}

fn requests(options: &PlanOptions) -> Result<Requests, String> {
    let Some(trace) = &options.trace else {
        let mix = Mix {
            conversations: options.conversations,
            turns: options.turns,
            shared_tokens: options.shared_tokens,
            question_tokens: options.question_tokens,
            answer_tokens: options.answer_tokens,
            requests: options.requests,
        };
        mix.check(options.tokens_per_block)?;
        return Ok(mix.requests(options.tokens_per_block));
    };
    read_trace(trace, options.tokens_per_block)
}

fn shown(plan: &Plan, is_made_up: bool) -> String {
    let mut text = format!(
        "{} requests{}, {} blocks of {} each, {} different ones ({})\n",
        plan.requests,
        if is_made_up { " (made up)" } else { "" },
        plan.block_references,
        format_size(plan.block_bytes),
        plan.distinct_blocks,
        format_size(plan.block_bytes.saturating_mul(plan.distinct_blocks)),
    );
    let _ = writeln!(
        text,
        "a cache without bounds hits {}; GPU memory of {} alone hits {}\n",
        percent(plan.hit_ratio_most),
        format_size(plan.gpu.bytes),
        percent(plan.gpu.hit_ratio)
    );
    let titles = ["largest tier", "blocks hit", "beyond the GPU", ""];
    let mut table = Table::new(&titles, "the requests have no blocks");
    for point in &plan.points {
        table.row([
            format_size(point.bytes),
            percent(point.hit_ratio),
            percent(point.gained),
            bar(point.hit_ratio, point.gained),
        ]);
    }
    text += &table.text();
    text.push('\n');
    for goal in &plan.goals {
        let _ = writeln!(
            text,
            "{} of what can be hit needs {} and hits {}",
            percent(goal.part),
            format_size(goal.bytes),
            percent(goal.hit_ratio)
        );
    }
    text.push_str(
        "\nexact for LRU; each tier also holds what faster ones hold, so the largest one decides what is hit at all, and each \
         smaller one how much of it comes from there\n",
    );
    text
}

fn percent(ratio: f64) -> String {
    format!("{:.1}%", ratio * 100.0)
}

/// What the GPU hits alone, and what comes on top.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "between nothing and the width"
)]
fn bar(hit_ratio: f64, gained: f64) -> String {
    let letters = |ratio: f64| (ratio.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    let (all, gpu) = (letters(hit_ratio), letters(hit_ratio - gained));
    format!(
        "{}{}{}",
        "=".repeat(gpu),
        "#".repeat(all - gpu),
        ".".repeat(BAR - all)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_tells_the_gpu_from_the_rest() {
        assert_eq!(
            bar(0.5, 0.25),
            format!("{}{}{}", "=".repeat(10), "#".repeat(10), ".".repeat(20))
        );
        assert_eq!(bar(1.0, 0.0), "=".repeat(40));
        assert_eq!(bar(0.0, 0.0), ".".repeat(40));
    }
}
