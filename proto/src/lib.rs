//! The admin API: the code generated from `proto/kvtier/v1/*.proto`, which is where it is documented.
//!
//! Every message can be written as JSON with serde: fields by their names in the `.proto` files, tiers by theirs.
#![forbid(unsafe_code)]

mod json;

/// `kvtier.v1`.
#[allow(
    missing_docs,
    clippy::pedantic,
    reason = "generated; the .proto files say what everything means"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/kvtier.v1.rs"));
}

/// All of it as a `FileDescriptorSet`, for gRPC's reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kvtier.v1.bin"));

impl v1::Tier {
    /// The name people use: `host`, `nvme`, `remote`; empty if it is not specified.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Host => "host",
            Self::Nvme => "nvme",
            Self::Remote => "remote",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_names_in_json() {
        let status = v1::TierStatus {
            tier: v1::Tier::Nvme.into(),
            ..v1::TierStatus::default()
        };
        let text = serde_json::to_string(&status).unwrap_or_default();
        assert!(text.contains("\"tier\":\"nvme\""), "{text}");
        let block = v1::BlockResidency {
            block: None,
            tiers: vec![1, 2, 77],
        };
        let text = serde_json::to_string(&block).unwrap_or_default();
        assert!(text.contains("\"tiers\":[\"host\",\"nvme\",\"\"]"), "{text}");
    }
}
