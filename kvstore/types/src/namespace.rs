//! The namespace descriptor: everything that must be equal for two blocks' bytes to be interchangeable.
//!
//! A descriptor is a set of fields, each a tag and a value. Its canonical encoding is injective, so equal ids mean
//! equal descriptors:
//!
//! ```text
//! "kvtier.namespace.v1\n" ‖ field*        fields sorted by tag, tags distinct
//! field = u32 tag length ‖ tag (UTF-8) ‖ u32 value length ‖ value        little-endian
//! ```
//!
//! The id is the first 16 bytes of the BLAKE3 digest of that encoding. The descriptor itself is kept whole, so that
//! two descriptors that meet under one id can be compared.

use std::collections::BTreeMap;

use crate::NamespaceId;

const MAGIC: &[u8] = b"kvtier.namespace.v1\n";

/// One thing that must be equal, as a client states it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    /// What it is, dotted and lower-case: `model.id`, `kv.dtype`.
    pub tag: String,
    /// Its value, usually UTF-8.
    pub value: Vec<u8>,
}

/// A set of fields with distinct tags.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NamespaceDescriptor {
    fields: BTreeMap<String, Vec<u8>>,
}

/// Why fields do not make a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// One tag was given twice.
    #[error("field {0:?} is given twice")]
    Duplicate(String),
    /// A tag is empty.
    #[error("a field has an empty tag")]
    EmptyTag,
    /// Together the fields are larger than a descriptor may be.
    #[error("the descriptor has {actual} bytes, at most {max} are allowed")]
    TooLarge {
        /// Bytes of the canonical encoding.
        actual: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// An encoding is not the canonical encoding of any descriptor.
    #[error("not a namespace descriptor: {0}")]
    Malformed(&'static str),
}

impl NamespaceDescriptor {
    /// Largest canonical encoding, in bytes.
    pub const BYTES_MAX: usize = 256 << 10;

    /// Makes a descriptor of fields in any order.
    pub fn new(fields: impl IntoIterator<Item = Field>) -> Result<Self, DescriptorError> {
        let mut descriptor = Self::default();
        for field in fields {
            descriptor.insert(field)?;
        }
        descriptor.check_size(0)?;
        Ok(descriptor)
    }

    /// Refuses a descriptor that would be too large with `reserved` more bytes in its encoding.
    pub fn check_size(&self, reserved: usize) -> Result<(), DescriptorError> {
        let (actual, max) = (self.encoded_bytes().saturating_add(reserved), Self::BYTES_MAX);
        if actual > max {
            return Err(DescriptorError::TooLarge { actual, max });
        }
        Ok(())
    }

    /// Bytes of the canonical encoding.
    pub fn encoded_bytes(&self) -> usize {
        let fields = self.fields.iter();
        MAGIC.len()
            + fields
                .map(|(tag, value)| 8 + tag.len() + value.len())
                .sum::<usize>()
    }

    /// The value under `tag`.
    pub fn get(&self, tag: &str) -> Option<&[u8]> {
        self.fields.get(tag).map(Vec::as_slice)
    }

    /// All fields, sorted by tag.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields
            .iter()
            .map(|(tag, value)| (tag.as_str(), value.as_slice()))
    }

    /// This descriptor without the field `tag`.
    #[must_use]
    pub fn without(&self, tag: &str) -> Self {
        let mut fields = self.fields.clone();
        fields.remove(tag);
        Self { fields }
    }

    /// The tag of the first field in which two descriptors differ.
    pub fn difference<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let tags = self.fields.keys().chain(other.fields.keys());
        tags.map(String::as_str)
            .find(|tag| self.get(tag) != other.get(tag))
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (tag, value) in &self.fields {
            for part in [tag.as_bytes(), value] {
                // A part beyond 4 GiB is far beyond BYTES_MAX, which `new` refuses before anyone stores the bytes.
                bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
                bytes.extend_from_slice(part);
            }
        }
        bytes
    }

    /// Reads a canonical encoding back; anything that [`encode`](Self::encode) would not have written is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, DescriptorError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(DescriptorError::TooLarge {
                actual: bytes.len(),
                max: Self::BYTES_MAX,
            });
        }
        let mut rest = bytes
            .strip_prefix(MAGIC)
            .ok_or(DescriptorError::Malformed("wrong magic"))?;
        let mut descriptor = Self::default();
        while !rest.is_empty() {
            let tag = take_part(&mut rest)?;
            let tag =
                std::str::from_utf8(tag).map_err(|_| DescriptorError::Malformed("a tag is not UTF-8"))?;
            if descriptor
                .fields
                .last_key_value()
                .is_some_and(|(last, _)| last.as_str() >= tag)
            {
                return Err(DescriptorError::Malformed("tags are not in order"));
            }
            let value = take_part(&mut rest)?.to_vec();
            descriptor.insert(Field {
                tag: tag.to_owned(),
                value,
            })?;
        }
        Ok(descriptor)
    }

    /// The namespace this descriptor names.
    pub fn id(&self) -> NamespaceId {
        let digest = blake3::hash(&self.encode());
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_bytes()[..16]);
        NamespaceId(id)
    }

    fn insert(&mut self, field: Field) -> Result<(), DescriptorError> {
        if field.tag.is_empty() {
            return Err(DescriptorError::EmptyTag);
        }
        if self.fields.contains_key(&field.tag) {
            return Err(DescriptorError::Duplicate(field.tag));
        }
        self.fields.insert(field.tag, field.value);
        Ok(())
    }
}

fn take_part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], DescriptorError> {
    let short = DescriptorError::Malformed("it ends in the middle of a field");
    let (length, tail) = rest.split_first_chunk::<4>().ok_or(short.clone())?;
    let length = u32::from_le_bytes(*length) as usize;
    let (part, tail) = tail.split_at_checked(length).ok_or(short)?;
    *rest = tail;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(tag: &str, value: &str) -> Field {
        Field {
            tag: tag.into(),
            value: value.into(),
        }
    }

    fn fields() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
        proptest::collection::btree_map(
            "[a-z.]{1,12}",
            proptest::collection::vec(any::<u8>(), 0..20),
            0..8,
        )
    }

    fn descriptor(fields: &BTreeMap<String, Vec<u8>>) -> NamespaceDescriptor {
        let fields = fields.iter().map(|(tag, value)| Field {
            tag: tag.clone(),
            value: value.clone(),
        });
        NamespaceDescriptor::new(fields).unwrap()
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let one = NamespaceDescriptor::new([field("a", "1"), field("b", "2")]).unwrap();
        let two = NamespaceDescriptor::new([field("b", "2"), field("a", "1")]).unwrap();
        assert_eq!(one.id(), two.id());
    }

    #[test]
    fn the_id_is_a_golden_value() {
        let descriptor =
            NamespaceDescriptor::new([field("kv.dtype", "bfloat16"), field("model.id", "m")]).unwrap();
        assert_eq!(descriptor.id().to_string(), GOLDEN_ID);
    }

    #[test]
    fn bad_fields_are_refused_and_named() {
        let twice = NamespaceDescriptor::new([field("a", "1"), field("a", "2")]);
        assert_eq!(twice, Err(DescriptorError::Duplicate("a".into())));
        assert_eq!(
            NamespaceDescriptor::new([field("", "1")]),
            Err(DescriptorError::EmptyTag)
        );
    }

    #[test]
    fn a_descriptor_may_be_refused_for_want_of_room_for_more() {
        let own = MAGIC.len() + 8 + 1;
        let value = "x".repeat(NamespaceDescriptor::BYTES_MAX - own);
        let full = NamespaceDescriptor::new([field("a", &value)]).unwrap();
        let (actual, max) = (NamespaceDescriptor::BYTES_MAX + 1, NamespaceDescriptor::BYTES_MAX);
        assert_eq!(full.check_size(0), Ok(()));
        assert_eq!(full.check_size(1), Err(DescriptorError::TooLarge { actual, max }));
        let larger = NamespaceDescriptor::new([field("a", &(value + "x"))]);
        assert_eq!(larger, Err(DescriptorError::TooLarge { actual, max }));
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(fields in fields()) {
            let descriptor = descriptor(&fields);
            prop_assert_eq!(descriptor.encode().len(), descriptor.encoded_bytes());
            prop_assert_eq!(NamespaceDescriptor::decode(&descriptor.encode()), Ok(descriptor));
        }

        #[test]
        fn changing_any_field_changes_the_id(fields in fields(), pick in any::<prop::sample::Index>()) {
            prop_assume!(!fields.is_empty());
            let before = descriptor(&fields);
            let tag = fields.keys().nth(pick.index(fields.len())).unwrap().clone();
            let mut changed = fields.clone();
            changed.get_mut(&tag).unwrap().push(0);
            let after = descriptor(&changed);
            prop_assert_ne!(before.id(), after.id());
            prop_assert_eq!(before.difference(&after), Some(tag.as_str()));
            prop_assert_ne!(before.without(&tag).id(), before.id());
        }

        #[test]
        fn damaged_encodings_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), keep in any::<bool>()) {
            if keep {
                bytes.splice(0..0, MAGIC.iter().copied());
            }
            if let Ok(descriptor) = NamespaceDescriptor::decode(&bytes) {
                prop_assert_eq!(descriptor.encode(), bytes);
            }
        }
    }

    /// Computed once with the reference implementation of BLAKE3 over the encoding the module describes.
    const GOLDEN_ID: &str = "82e68d1607ab11f83a8c976b0a3d96e7";
}
