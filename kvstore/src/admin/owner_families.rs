//! The metrics of namespaces and engines, of which only so many have series of their own.

use kvstore_engine::NamespaceUsage;

use super::exposition::{Kind, Label, Writer};
use super::families::{each, of_tiers};
use super::scrape::{EngineScrape, TenantScrape};

pub(super) fn write(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_namespaces",
        Kind::Gauge,
        "Namespaces known; those with the most blocks have series of their own.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.occupancy.namespaces as u64
    });
    writer.family("kvtier_namespace", Kind::Info, "The model of a namespace.");
    for tenant in tenants {
        for namespace in &tenant.namespaces {
            let labels = [
                ("tenant", tenant.name.as_str()),
                ("namespace", &namespace.id),
                ("model", &namespace.model),
            ];
            writer.number(&labels, 1);
        }
    }
    namespaces(writer, tenants);
    engines(writer, tenants);
}

/// Numbers of one namespace, told apart by one more label.
type Numbers = Vec<(Label<'static>, u64)>;

fn each_namespace(
    writer: &mut Writer,
    tenants: &[TenantScrape],
    (name, kind, help): (&'static str, Kind, &str),
    numbers: impl Fn(&TenantScrape, &NamespaceUsage) -> Numbers,
) {
    writer.family(name, kind, help);
    for tenant in tenants {
        for namespace in &tenant.namespaces {
            for (label, number) in numbers(tenant, &namespace.usage) {
                let labels = [
                    ("tenant", tenant.name.as_str()),
                    ("namespace", &namespace.id),
                    label,
                ];
                writer.number(&labels, number);
            }
        }
    }
}

fn by_tier(tenant: &TenantScrape, [host, nvme, remote]: [u64; 3]) -> Numbers {
    let numbers = of_tiers(tenant, host, nvme, Some(remote)).into_iter();
    numbers.map(|(tier, number)| (("tier", tier), number)).collect()
}

fn namespaces(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_namespace_blocks",
        Kind::Gauge,
        "Usable copies of a namespace's blocks.",
    );
    each_namespace(writer, tenants, family, |tenant, usage| {
        by_tier(
            tenant,
            [usage.host_blocks, usage.nvme_blocks, usage.remote_blocks],
        )
    });
    let family = (
        "kvtier_namespace_hit_blocks",
        Kind::Counter,
        "Blocks of hits, by the tier they came from.",
    );
    each_namespace(writer, tenants, family, |tenant, usage| {
        let traffic = &usage.traffic;
        let (nvme, remote) = (traffic.nvme_hit_blocks, traffic.remote_hit_blocks);
        let host = traffic.hit_blocks.saturating_sub(nvme + remote);
        by_tier(tenant, [host, nvme, remote])
    });
    let family = (
        "kvtier_namespace_lookups",
        Kind::Counter,
        "Look-ups answered, by outcome.",
    );
    each_namespace(writer, tenants, family, |_, usage| {
        let traffic = &usage.traffic;
        vec![
            (("outcome", "hit"), traffic.lookups - traffic.lookups_missed),
            (("outcome", "miss"), traffic.lookups_missed),
        ]
    });
    writer.family(
        "kvtier_namespace_published_blocks",
        Kind::Counter,
        "Blocks that all ranks sealed.",
    );
    for tenant in tenants {
        for namespace in &tenant.namespaces {
            let labels = [("tenant", tenant.name.as_str()), ("namespace", &namespace.id)];
            writer.number(&labels, namespace.usage.traffic.published);
        }
    }
}

fn engines(writer: &mut Writer, tenants: &[TenantScrape]) {
    writer.family("kvtier_engine", Kind::Info, "An attached engine.");
    for tenant in tenants {
        for engine in &tenant.engines {
            let labels = [
                ("tenant", tenant.name.as_str()),
                ("engine_group", &engine.group),
                ("engine", &engine.name),
                ("namespace", &engine.namespace),
                ("pod", &engine.pod),
            ];
            writer.number(&labels, 1);
        }
    }
    for (name, help, number) in [
        (
            "kvtier_engine_sessions",
            "Sessions of an engine.",
            (|engine| engine.sessions) as fn(&EngineScrape) -> u64,
        ),
        ("kvtier_engine_leases", "Leases of an engine.", |engine| {
            engine.leases
        }),
        (
            "kvtier_engine_leased_blocks",
            "Blocks that an engine has leased.",
            |engine| engine.leased_blocks,
        ),
        (
            "kvtier_engine_held_blocks",
            "Blocks that an engine holds or has leased.",
            |engine| engine.blocks_held,
        ),
    ] {
        writer.family(name, Kind::Gauge, help);
        for tenant in tenants {
            for engine in &tenant.engines {
                let labels = [("tenant", tenant.name.as_str()), ("engine_group", &engine.group)];
                writer.number(&labels, number(engine));
            }
        }
    }
}
