//! Compiles the `.proto` files with a compiler written in Rust, so that no `protoc` has to be on the machine.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 2] = ["kvtier/v1/admin.proto", "kvtier/v1/watch.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("kvtier.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Maps in the order of their keys: what is printed does not change from call to call.
        .btree_map(".")
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .field_attribute("kvtier.v1.TierStatus.tier", TIER)
        .field_attribute("kvtier.v1.EvictRequest.tier", TIER)
        .field_attribute("kvtier.v1.PinShare.tier", TIER)
        .field_attribute("kvtier.v1.EventsRequest.tier", TIER)
        .field_attribute("kvtier.v1.Stored.tier", TIER)
        .field_attribute("kvtier.v1.Removed.tier", TIER)
        .field_attribute("kvtier.v1.BlockResidency.tiers", TIERS)
        .compile_fds(descriptors)?;
    Ok(())
}

/// Enumerations are numbers in messages and names for whoever reads them.
const TIER: &str = "#[serde(serialize_with = \"crate::json::tier\")]";
const TIERS: &str = "#[serde(serialize_with = \"crate::json::tiers\")]";
