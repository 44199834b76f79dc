//! What only shows when several keys are seen together.

use kvstore_engine::EngineConfig;

use super::load::Problem;
use super::read::SOCKET_PATH_BYTES_MAX;
use super::units::format_size;
use super::{ARENA_UNIT_BYTES, Config};

/// Checks what only shows when several keys are seen together.
pub(super) fn cross_check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |key: &str, text: String| {
        let key = key.to_owned();
        problems.push(Problem {
            key,
            text,
            place: None,
        });
    };
    let (low, high) = (config.host.watermark_low, config.host.watermark_high);
    if !(0.0 < low && low < high && high <= 1.0) {
        problem(
            "host.watermark-low",
            format!("want 0 < low < high <= 1, got low {low} high {high}"),
        );
    }
    let (share, most) = (config.pin_share, EngineConfig::KEEP_SHARE_MAX);
    if share > most {
        problem("pin-share", format!("want 0 to {most}, got {share}"));
    }
    if let Some(arena) = config.host.arena_bytes {
        if !arena.is_multiple_of(ARENA_UNIT_BYTES) {
            let text = format!("want a multiple of 2MiB, got {}", format_size(arena));
            problem("host.arena-bytes", text);
        }
        let smallest = config.tenants.iter().min_by_key(|tenant| tenant.capacity_bytes);
        if let Some(tenant) = smallest.filter(|tenant| arena > tenant.capacity_bytes / 2) {
            let text = format!(
                "want at most half of the smallest capacity ({} of tenant {}), got {}",
                format_size(tenant.capacity_bytes),
                tenant.name,
                format_size(arena)
            );
            problem("host.arena-bytes", text);
        }
    }
    let admin = config.admin_socket();
    if admin == config.socket {
        problem("admin.socket", "want another path than that of socket".to_owned());
    }
    let bytes = admin.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        let text = format!(
            "want at most {} bytes (a limit of unix sockets), got {bytes} in {}, which follows from socket",
            SOCKET_PATH_BYTES_MAX,
            admin.display()
        );
        problem("admin.socket", text);
    }
    let of_rooms = super::nvme::check(config).into_iter();
    let of_rooms = of_rooms
        .chain(super::remote::check(config))
        .chain(super::admin::check(config))
        .chain(super::tracing::check(config));
    for (key, text) in of_rooms.chain(super::events::check(config)) {
        problem(&key, text);
    }
    for tenant in &config.tenants {
        if tenant.access.uids.is_empty() && tenant.access.gids.is_empty() {
            let key = format!("tenant.{}.uids", tenant.name);
            problem(
                &key,
                "want at least one uid or gid, or nobody could attach".to_owned(),
            );
        }
    }
    problems
}
