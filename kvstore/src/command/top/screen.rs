//! One screen.

use kvtier_proto::v1;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Sparkline, Table};

use super::Top;
use super::rates::{Rates, SERVING, TierRates};
use crate::command::table::{printable, time};
use crate::config::format_size;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, top: &Top) {
    let Some(last) = top.samples.back() else { return };
    let rates = top.rates();
    let tiers = rates.as_ref().map_or(0, |rates| rates.tiers.len());
    let devices: usize = top.tenants(last).map(|tenant| tenant.devices.len()).sum();
    let height = |rows: usize| Constraint::Length(u16::try_from(rows).unwrap_or(u16::MAX));
    let rows = [
        height(1),
        height(2 + 2 * tiers),
        height(11),
        height(if devices == 0 { 0 } else { 3 + devices }),
        Constraint::Min(0),
    ];
    let [head, above, middle, below, rest] = Layout::vertical(rows).areas(frame.area());
    header(frame, head, top);
    let Some(rates) = rates else {
        let text = Paragraph::new("rates come with the second answer");
        return frame.render_widget(text, above);
    };
    tier_gauges(frame, above, &rates);
    let columns = [Constraint::Ratio(1, 3); 3];
    let [left, centre, right] = Layout::horizontal(columns).areas(middle);
    throughput(frame, left, &rates);
    queues(frame, centre, &rates);
    latencies(frame, right, &rates);
    if devices > 0 {
        device_table(frame, below, top);
    }
    curves(frame, rest, top);
}

fn header(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    let Some(last) = top.samples.back() else { return };
    let status = &last.status;
    let draining = top.tenants(last).any(|tenant| tenant.draining);
    let state = match &top.trouble {
        Some(trouble) => Span::styled(
            format!("not answering: {}", printable(trouble)),
            Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        ),
        None if !status.ready => Span::styled(
            format!("not ready: {}", printable(&status.waiting_for)),
            Style::new().fg(Color::Yellow),
        ),
        None if draining => Span::styled("takes no stores", Style::new().fg(Color::Yellow)),
        None => match unwell(top) {
            Some(text) => Span::styled(text, Style::new().fg(Color::Yellow)),
            None => Span::styled(SERVING, Style::new().fg(Color::Green)),
        },
    };
    let tenant = match top.tenant.and_then(|tenant| status.tenants.get(tenant)) {
        Some(tenant) => format!("tenant {}", printable(&tenant.tenant)),
        None if status.tenants.len() > 1 => format!("all {} tenants", status.tenants.len()),
        None => String::new(),
    };
    let line = Line::from(vec![
        format!(
            "kvtierd {}  pid {}  up {}  ",
            status.version,
            status.pid,
            time(status.uptime_seconds)
        )
        .bold(),
        state,
        format!("  {tenant}").into(),
    ]);
    let keys = Line::from("t: next tenant  q: quit").right_aligned();
    frame.render_widget(keys.dim(), area);
    frame.render_widget(line, area);
}

/// What is wrong with tiers; why is said at their lines.
fn unwell(top: &Top) -> Option<String> {
    let rates = top.rates()?;
    let unwell = rates.tiers.iter().filter(|tier| tier.state != SERVING);
    let texts: Vec<String> = unwell
        .map(|tier| {
            let state = tier.state.split(':').next().unwrap_or_default();
            format!("{}: {}", tier.tier, printable(state))
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// How full a tier is; of one that other nodes share nobody knows.
fn fullness(tier: &TierRates) -> String {
    if tier.capacity_bytes == 0 {
        return format!("{} -", tier.tier);
    }
    format!(
        "{} {} of {}  {:.1}%",
        tier.tier,
        format_size(tier.used_bytes),
        format_size(tier.capacity_bytes),
        100.0 * part(tier.used_bytes, tier.capacity_bytes)
    )
}

fn tier_gauges(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let block = Block::bordered().title(" tiers ");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let rows = Layout::vertical(vec![Constraint::Length(1); 2 * rates.tiers.len()]).split(inside);
    for (tier, lines) in rates.tiers.iter().zip(rows.chunks(2)) {
        if let [bar, text] = lines {
            let gauge = Gauge::default()
                .ratio(part(tier.used_bytes, tier.capacity_bytes))
                .label(fullness(tier))
                .gauge_style(Style::new().fg(colour(tier.tier)).bg(Color::DarkGray));
            frame.render_widget(gauge, *bar);
            frame.render_widget(Line::from(flow(tier)), *text);
        }
    }
}

fn flow(tier: &TierRates) -> String {
    let moving = if tier.state != SERVING {
        printable(&tier.state)
    } else if tier.change_bytes > 0.0 {
        format!("filling {}", speed(tier.change_bytes))
    } else if tier.change_bytes < 0.0 {
        format!("draining {}", speed(-tier.change_bytes))
    } else {
        "steady".to_owned()
    };
    format!(
        "  hit {}   in {:.0} blocks/s   out {:.0} blocks/s   {moving}",
        ratio(tier.hit_ratio),
        tier.admitted_blocks,
        tier.removed_blocks
    )
}

fn throughput(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let rows = [
        ("look-ups", format!("{:.1}/s", rates.lookups)),
        ("hit ratio now", ratio(rates.hit_ratio)),
        ("since the start", ratio(rates.hit_ratio_all)),
        ("tokens from cache", format!("{:.0}/s", rates.hit_tokens)),
        ("stored", speed(rates.stored_bytes)),
        ("loaded", speed(rates.loaded_bytes)),
        ("to NVMe", speed(rates.nvme_written_bytes)),
        ("from NVMe", speed(rates.nvme_read_bytes)),
    ];
    pairs(frame, area, " throughput ", rows);
}

fn queues(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let rows = rates.queues.iter();
    pairs(
        frame,
        area,
        " under way ",
        rows.map(|&(name, number)| (name, number.to_string())),
    );
}

fn latencies(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let rows = rates.latencies.iter().map(|latency| {
        let cells = [
            latency.name.clone(),
            latency.p50_seconds.map_or_else(|| "-".to_owned(), short_time),
            latency.p99_seconds.map_or_else(|| "-".to_owned(), short_time),
        ];
        Row::new(cells.map(Cell::from))
    });
    let widths = [Constraint::Min(12), Constraint::Length(9), Constraint::Length(9)];
    let table = Table::new(rows, widths)
        .header(Row::new(["", "p50", "p99"]).dim())
        .block(Block::bordered().title(" latencies "));
    frame.render_widget(table, area);
}

fn pairs<'a>(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &'a str,
    rows: impl IntoIterator<Item = (&'a str, String)>,
) {
    let rows = rows
        .into_iter()
        .map(|(name, value)| Row::new([Cell::from(name), Cell::from(Line::from(value).right_aligned())]));
    let table =
        Table::new(rows, [Constraint::Min(12), Constraint::Length(14)]).block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn device_table(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    let Some(last) = top.samples.back() else { return };
    let rows = top
        .tenants(last)
        .flat_map(|tenant| &tenant.devices)
        .map(|device| {
            let of = |kind: &str| device.operations.iter().find(|each| each.kind == kind);
            let times = |kind: &str| {
                let us = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |us| format!("{us}us"));
                of(kind).map_or_else(String::new, |it| {
                    format!("{} / {}", us(it.latency_us_p50), us(it.latency_us_p99))
                })
            };
            let sum = |number: fn(&v1::OperationStatus) -> u64| {
                device.operations.iter().map(number).sum::<u64>().to_string()
            };
            let state = if device.writes_suspended {
                format!("{}, not writing", device.state)
            } else {
                device.state.clone()
            };
            let is_well = device.state == "serving" && !device.writes_suspended;
            Row::new([
                Cell::from(printable(&device.directory)),
                Cell::from(state).style(Style::new().fg(if is_well { Color::Green } else { Color::Red })),
                Cell::from(format_size(device.used_bytes)),
                Cell::from(times("demand")),
                Cell::from(times("write")),
                Cell::from(sum(|it| it.waiting)),
                Cell::from(sum(|it| it.under_way)),
            ])
        });
    let widths = [
        Constraint::Min(20),
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Length(18),
        Constraint::Length(18),
        Constraint::Length(8),
        Constraint::Length(6),
    ];
    let titles = [
        "directory",
        "state",
        "used",
        "read p50 / p99",
        "write p50 / p99",
        "waiting",
        "now",
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(titles).dim())
        .block(Block::bordered().title(" NVMe "));
    frame.render_widget(table, area);
}

/// The newest to the right.
fn curves(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    if area.height < 4 {
        return;
    }
    let history = top.history();
    let [left, right] = Layout::horizontal([Constraint::Ratio(1, 2); 2]).areas(area);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "heights of bars"
    )]
    let heights = |area: Rect, value: fn(&Rates) -> f64| -> Vec<u64> {
        let width = usize::from(area.width.saturating_sub(2));
        let skipped = history.len().saturating_sub(width);
        history[skipped..]
            .iter()
            .map(|rates| value(rates) as u64)
            .collect()
    };
    let hits = heights(left, |rates| rates.hit_ratio.unwrap_or(0.0) * 1000.0);
    let hits = Sparkline::default()
        .data(&hits)
        .max(1000)
        .style(Style::new().fg(Color::Magenta))
        .block(Block::bordered().title(" hit ratio, to 100% "));
    frame.render_widget(hits, left);
    let bytes = heights(right, |rates| rates.stored_bytes + rates.loaded_bytes);
    let most = bytes.iter().max().copied().unwrap_or(0);
    let title = format!(" stored and loaded, to {}/s ", format_size(most));
    let bytes = Sparkline::default()
        .data(&bytes)
        .style(Style::new().fg(Color::Blue))
        .block(Block::bordered().title(title));
    frame.render_widget(bytes, right);
}

fn colour(tier: &str) -> Color {
    match tier {
        "host" => Color::Blue,
        "nvme" => Color::Green,
        _ => Color::Yellow,
    }
}

#[expect(clippy::cast_precision_loss, reason = "the length of a bar")]
fn part(used: u64, capacity: u64) -> f64 {
    if capacity == 0 {
        return 0.0;
    }
    (used as f64 / capacity as f64).clamp(0.0, 1.0)
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.1}%", ratio * 100.0))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is shown"
)]
fn speed(bytes: f64) -> String {
    format!("{}/s", format_size(bytes.max(0.0) as u64))
}

fn short_time(seconds: f64) -> String {
    match seconds {
        0.0..0.001 => format!("{:.0}us", seconds * 1e6),
        0.001..1.0 => format!("{:.0}ms", seconds * 1e3),
        _ => time(seconds),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::Sample;
    use super::*;

    fn numbers(numbers: &[(&str, u64)]) -> BTreeMap<String, u64> {
        numbers
            .iter()
            .map(|&(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// A daemon of two tenants after some seconds of the same load on each.
    fn sample(began: Instant, seconds: u64) -> Sample {
        let tenant = |name: &str| v1::TenantStatus {
            tenant: name.to_owned(),
            occupancy: numbers(&[("sessions", 3), ("leases", 7)]),
            counters: numbers(&[
                ("lookups", 10 * seconds),
                ("lookup_blocks", 100 * seconds),
                ("hit_blocks", 80 * seconds),
                ("published_bytes", seconds << 20),
            ]),
            latencies: vec![v1::LatencyStatus {
                name: "look-up".to_owned(),
                counts: vec![99 * seconds, seconds, 0],
                bounds_seconds: vec![0.000_02, 0.005],
                sum_seconds: 0.0,
            }],
            ..v1::TenantStatus::default()
        };
        let tier = |name: &str| v1::TierStatus {
            tenant: name.to_owned(),
            tier: v1::Tier::Host.into(),
            capacity_bytes: 64 << 20,
            used_bytes: (16 + seconds) << 20,
            hit_blocks: 80 * seconds,
            admitted_blocks: 5 * seconds,
            state: SERVING.to_owned(),
            ..v1::TierStatus::default()
        };
        Sample {
            at: began + Duration::from_secs(seconds),
            status: v1::GetStatusResponse {
                version: "1.2.3".to_owned(),
                ready: true,
                tenants: vec![tenant("blue"), tenant("green")],
                ..v1::GetStatusResponse::default()
            },
            tiers: vec![tier("blue"), tier("green")],
        }
    }

    fn drawn(top: &Top) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, 30)).unwrap();
        terminal.draw(|frame| draw(frame, top)).unwrap();
        terminal.backend().to_string()
    }

    /// The line of the screen that has this in it.
    fn line<'a>(screen: &'a str, text: &str) -> &'a str {
        screen
            .lines()
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("no {text} in {screen}"))
    }

    #[test]
    fn the_screen_shows_what_changed_and_turns_to_one_tenant() {
        let began = Instant::now();
        let mut top = Top::default();
        top.add(sample(began, 0));
        assert!(drawn(&top).contains("rates come with the second answer"));
        top.add(sample(began, 2));
        let screen = drawn(&top);
        assert!(
            line(&screen, "kvtierd 1.2.3").contains("serving  all 2 tenants"),
            "{screen}"
        );
        assert!(screen.contains("host 36MiB of 128MiB  28.1%"), "{screen}");
        let flow = line(&screen, "filling");
        assert!(
            flow.contains("hit 80.0%   in 10 blocks/s   out 0 blocks/s   filling 2MiB/s"),
            "{flow}"
        );
        assert!(line(&screen, "look-ups ").contains("20.0/s"), "{screen}");
        assert!(line(&screen, "stored  ").contains("2MiB/s"), "{screen}");
        assert!(line(&screen, "loads").contains("14"), "{screen}");
        let latency = line(&screen, "look-up  ");
        assert!(latency.contains("20us") && !latency.contains("5ms"), "{latency}");
        top.turn();
        let screen = drawn(&top);
        assert!(line(&screen, "kvtierd").contains("tenant blue"), "{screen}");
        assert!(line(&screen, "look-ups ").contains("10.0/s"), "{screen}");
        top.turn();
        top.turn();
        assert!(drawn(&top).contains("all 2 tenants"));
        top.trouble = Some("gone".to_owned());
        assert!(drawn(&top).contains("not answering: gone"));
        // A small window is no trouble.
        let mut small = Terminal::new(TestBackend::new(8, 3)).unwrap();
        small.draw(|frame| draw(frame, &top)).unwrap();
    }

    #[test]
    fn a_tier_that_does_not_serve_is_said_above_and_at_its_line() {
        let began = Instant::now();
        let mut top = Top::default();
        for seconds in [0, 2] {
            let mut sample = sample(began, seconds);
            for tenant in ["blue", "green"] {
                let is_out = seconds > 0 && tenant == "green";
                let state = if is_out {
                    "reads out of service: no such store"
                } else {
                    SERVING
                };
                sample.tiers.push(v1::TierStatus {
                    tenant: tenant.to_owned(),
                    tier: v1::Tier::Remote.into(),
                    state: state.to_owned(),
                    ..v1::TierStatus::default()
                });
            }
            top.add(sample);
        }
        let screen = drawn(&top);
        let head = line(&screen, "kvtierd 1.2.3");
        assert!(
            head.contains("remote: reads out of service  all 2 tenants"),
            "{head}"
        );
        assert!(!line(&screen, "remote -").contains("0B"), "{screen}");
        let flow = line(&screen, "no such store");
        assert!(
            flow.contains("blocks/s   reads out of service: no such store"),
            "{flow}"
        );
        // The other tenant's is well.
        top.turn();
        let screen = drawn(&top);
        assert!(
            line(&screen, "kvtierd 1.2.3").contains("serving  tenant blue"),
            "{screen}"
        );
    }

    #[test]
    fn another_life_of_the_daemon_begins_anew() {
        let began = Instant::now();
        let mut top = Top::default();
        top.add(sample(began, 5));
        let mut other = sample(began, 6);
        "other".clone_into(&mut other.status.boot_epoch);
        top.add(other);
        assert!(top.rates().is_none());
    }
}
