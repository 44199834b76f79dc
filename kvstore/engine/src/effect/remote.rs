//! What the engine asks of the remote tier.

use kvstore_types::{
    BlockKey, DescriptorBytes, NamespaceDescriptor, NamespaceGeometry, NamespaceId, OperationId, ReadClass,
    SlotRef,
};

/// What the remote tier is told to do. `Store`, `Fetch` and `Exists` are answered, by their deadlines and in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteOrder {
    /// Remember what a namespace stands for. Comes before everything else about it.
    KeepNamespace {
        /// All that it stands for.
        descriptor: NamespaceDescriptor,
        /// What its blocks look like.
        geometry: NamespaceGeometry,
    },
    /// Nothing more will be asked about a namespace, until it is kept again.
    ForgetNamespace {
        /// Which.
        namespace: NamespaceId,
    },
    /// Write a slot's payload. Its bytes do not change until `Taken` or the answer, whichever comes first.
    Store {
        /// Names the order.
        operation: OperationId,
        /// Where from.
        slot: SlotRef,
        /// The block.
        key: BlockKey,
        /// What it is about, to be kept with it.
        descriptor: Option<DescriptorBytes>,
    },
    /// Read a block into a slot and verify it. Nobody else uses the slot until the answer.
    Fetch {
        /// Names the order.
        operation: OperationId,
        /// Where to.
        slot: SlotRef,
        /// The block.
        key: BlockKey,
        /// How urgent it is.
        class: ReadClass,
    },
    /// A fetch has become more or less urgent.
    SetClass {
        /// Which.
        operation: OperationId,
        /// How urgent it is now.
        class: ReadClass,
    },
    /// Which of these blocks are there? They belong to one namespace and stand in the order of their prefix.
    Exists {
        /// Names the question.
        operation: OperationId,
        /// The blocks.
        keys: Vec<BlockKey>,
        /// Whether blocks behind the first missing one are of no use.
        until_missing: bool,
    },
}
