//! How enumerations are written as JSON.

use serde::Serializer;

use crate::v1::Tier;

fn name(tier: i32) -> &'static str {
    Tier::try_from(tier).unwrap_or(Tier::Unspecified).name()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
pub(crate) fn tier<S: Serializer>(tier: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name(*tier))
}

pub(crate) fn tiers<S: Serializer>(tiers: &[i32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(tiers.iter().map(|tier| name(*tier)))
}
