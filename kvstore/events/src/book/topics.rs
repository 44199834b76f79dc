//! Under which names blocks are announced.
//!
//! A topic is `kv@IDENTITY@MODEL`: exactly three parts, so neither may contain an `@`. What stands behind it is all
//! announced blocks of one namespace of one tenant; under a pool's name, of those what is in the remote tier. There the block
//! before a block may be missing, and a router knows it only because it was told under another name. So a pool is
//! announced beside pods or a node, and after them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kvstore_types::{NamespaceId, SessionId, Tier};
use tracing::warn;

use super::namespace::{Namespaces, TenantIndex};
use crate::tiers::TierSet;

/// What all topics begin with.
pub(crate) const TOPIC_PREFIX: &str = "kv@";

/// As whom blocks are announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// As each attached engine, by the address that requests reach it at.
    Pods,
    /// As the node: everything on it, whoever is attached.
    Node(String),
    /// As a pool that several nodes share: what is in the remote tier. Only beside pods or a node.
    Pool(String),
}

/// One name and what is announced under it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Topic {
    /// Not everything that is announced is told under it: those come last.
    pub(crate) is_partial: bool,
    pub(crate) name: Arc<str>,
    pub(crate) tenant: TenantIndex,
    pub(crate) namespace: NamespaceId,
    pub(crate) tiers: TierSet,
}

impl Topic {
    /// Whether both are of one name, if not of one model.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.name.rsplit_once('@').map(|(name, _)| name) == other.name.rsplit_once('@').map(|(name, _)| name)
    }

    /// The model in its name.
    pub(crate) fn model(&self) -> &str {
        self.name.rsplit('@').next().unwrap_or_default()
    }
}

#[derive(Debug)]
struct Attachment {
    namespace: NamespaceId,
    pod: Arc<str>,
    model: Arc<str>,
}

/// Names of one namespace that are remembered, those that it is served as now among them.
const NAMES_MAX: usize = 16;
/// Names of which it is said that they cannot be announced; further ones are only counted.
const REFUSALS_MAX: usize = 64;
/// Longest part of a topic.
const NAME_BYTES_MAX: usize = 512;

#[derive(Debug)]
pub(super) struct Topics {
    identities: Vec<Identity>,
    attached: BTreeMap<(TenantIndex, SessionId), Attachment>,
    /// Sessions that relay. A topic of its own for each, which no router hears.
    relays: BTreeSet<(TenantIndex, SessionId)>,
    /// What namespaces were served as, now or before, the latest last.
    served: HashMap<(TenantIndex, NamespaceId), Vec<Arc<str>>>,
    told: BTreeSet<Topic>,
    /// The namespaces that are among them.
    named: HashSet<(TenantIndex, NamespaceId)>,
    version: u64,
    /// Nothing is announced any more.
    is_over: bool,
    refused: BTreeSet<Arc<str>>,
    pub(super) names_refused: u64,
}

impl Topics {
    pub(super) fn new(identities: Vec<Identity>) -> Self {
        Self {
            identities,
            attached: BTreeMap::new(),
            relays: BTreeSet::new(),
            served: HashMap::new(),
            told: BTreeSet::new(),
            named: HashSet::new(),
            version: 0,
            is_over: false,
            refused: BTreeSet::new(),
            names_refused: 0,
        }
    }

    /// Whether an engine that is attached serves the namespace.
    pub(super) fn serves(&self, tenant: TenantIndex, namespace: NamespaceId) -> bool {
        self.attached
            .iter()
            .any(|((owner, _), attachment)| *owner == tenant && attachment.namespace == namespace)
    }

    /// Whether the namespace's blocks are told under no name although there could be one.
    pub(super) fn leaves_out(&self, tenant: TenantIndex, namespace: NamespaceId) -> bool {
        let is_to_be_told = !self.identities.is_empty() && !self.is_over;
        is_to_be_told && !self.named.contains(&(tenant, namespace))
    }

    pub(super) fn attach(
        &mut self,
        tenant: TenantIndex,
        session: SessionId,
        namespace: NamespaceId,
        pod: Arc<str>,
        model: Arc<str>,
    ) {
        if !model.is_empty() && self.accept(&model) {
            self.remember(tenant, namespace, &model);
        }
        let attachment = Attachment {
            namespace,
            pod,
            model,
        };
        self.attached.insert((tenant, session), attachment);
    }

    /// Remembers what a namespace is served as. When these are many, the oldest that nobody serves it as any more make room.
    fn remember(&mut self, tenant: TenantIndex, namespace: NamespaceId, model: &Arc<str>) {
        let names = self.served.entry((tenant, namespace)).or_default();
        names.retain(|name| name != model);
        let is_used = |name: &Arc<str>| {
            self.attached.iter().any(|((owner, _), attachment)| {
                *owner == tenant && attachment.namespace == namespace && attachment.model == *name
            })
        };
        while names.len() >= NAMES_MAX
            && let Some(unused) = names.iter().position(|name| !is_used(name))
        {
            names.remove(unused);
        }
        names.push(Arc::clone(model));
    }

    pub(super) fn detach(&mut self, tenant: TenantIndex, session: SessionId) {
        self.attached.remove(&(tenant, session));
        self.relays.remove(&(tenant, session));
    }

    pub(super) fn relay(&mut self, tenant: TenantIndex, session: SessionId) {
        self.relays.insert((tenant, session));
    }

    /// Finds out anew which topics there are.
    pub(super) fn retell(&mut self, namespaces: &Namespaces) {
        let attached: BTreeSet<_> = self
            .attached
            .iter()
            .map(|((tenant, _), attachment)| (*tenant, attachment.namespace))
            .collect();
        self.served.retain(|(tenant, id), _| {
            attached.contains(&(*tenant, *id)) || namespaces.find(*tenant, *id).is_some()
        });
        let mut topics = self.relayed();
        let identities = if self.is_over {
            Vec::new()
        } else {
            self.identities.clone()
        };
        for identity in identities {
            match identity {
                Identity::Pods => self.pods(&mut topics),
                Identity::Node(name) => {
                    self.shared(&format!("node:{name}"), TierSet::ALL, namespaces, &mut topics);
                }
                Identity::Pool(name) => {
                    let tiers = TierSet::of(Tier::Remote);
                    self.shared(&format!("pool:{name}"), tiers, namespaces, &mut topics);
                }
            }
        }
        if topics != self.told {
            self.named = topics
                .iter()
                .map(|topic| (topic.tenant, topic.namespace))
                .collect();
            self.told = topics;
            self.version += 1;
        }
    }

    /// A topic for each attached engine that relays.
    fn relayed(&self) -> BTreeSet<Topic> {
        let relays = self.relays.iter();
        relays
            .filter_map(|id| {
                let namespace = self.attached.get(id)?.namespace;
                Some(Topic {
                    is_partial: false,
                    name: relay_topic(id.0, id.1).into(),
                    tenant: id.0,
                    namespace,
                    tiers: TierSet::ALL,
                })
            })
            .collect()
    }

    /// A topic for each attached engine that says where requests reach it.
    fn pods(&mut self, topics: &mut BTreeSet<Topic>) {
        let attached: Vec<_> = self
            .attached
            .iter()
            .filter(|(id, attachment)| {
                !attachment.pod.is_empty() && !attachment.model.is_empty() && !self.relays.contains(id)
            })
            .map(|((tenant, _), a)| (*tenant, a.namespace, Arc::clone(&a.pod), Arc::clone(&a.model)))
            .collect();
        for (tenant, namespace, pod, model) in attached {
            if self.accept(&pod) && self.accept(&model) {
                topics.insert(Topic {
                    is_partial: false,
                    name: format!("{TOPIC_PREFIX}{pod}@{model}").into(),
                    tenant,
                    namespace,
                    tiers: TierSet::ALL,
                });
            }
        }
    }

    /// A topic for each name that each namespace is or was served as, or for its model's own.
    fn shared(
        &mut self,
        identity: &str,
        tiers: TierSet,
        namespaces: &Namespaces,
        topics: &mut BTreeSet<Topic>,
    ) {
        let mut named: Vec<(TenantIndex, NamespaceId, Arc<str>)> = Vec::new();
        for ((tenant, namespace), names) in &self.served {
            named.extend(names.iter().map(|name| (*tenant, *namespace, Arc::clone(name))));
        }
        for namespace in namespaces.iter() {
            let model = namespace.shape.as_ref().and_then(|shape| shape.model.clone());
            if let Some(model) = model
                && !self.served.contains_key(&(namespace.tenant, namespace.id))
            {
                named.push((namespace.tenant, namespace.id, model));
            }
        }
        for (tenant, namespace, model) in named {
            if self.accept(&model) {
                topics.insert(Topic {
                    is_partial: tiers != TierSet::ALL,
                    name: format!("{TOPIC_PREFIX}{identity}@{model}").into(),
                    tenant,
                    namespace,
                    tiers,
                });
            }
        }
    }

    /// Whether a name can be part of a topic. If not, that is said once.
    fn accept(&mut self, name: &Arc<str>) -> bool {
        if is_name(name) {
            return true;
        }
        if !self.refused.contains(name) {
            self.names_refused += 1;
            if self.refused.len() < REFUSALS_MAX {
                self.refused.insert(Arc::clone(name));
                warn!(
                    name = &**name,
                    "nothing is announced under this name: want one without \"@\", spaces or control characters, \
                     of 1 to {NAME_BYTES_MAX} bytes"
                );
            }
        }
        false
    }
}

/// What the topic of a relay is called.
pub(crate) fn relay_topic(tenant: TenantIndex, session: SessionId) -> String {
    format!("relay:{tenant}:{}", session.0)
}

/// Whether a name can be part of a topic.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    fits && !name
        .chars()
        .any(|c| c == '@' || c.is_whitespace() || c.is_control())
}

impl super::Book {
    /// Under which names something is announced now.
    pub(crate) fn topics(&self) -> &BTreeSet<Topic> {
        &self.topics.told
    }

    /// Grows whenever these change.
    pub(crate) fn topics_version(&self) -> u64 {
        self.topics.version
    }

    /// Nothing is announced any more: everything is withdrawn.
    pub(crate) fn withdraw_topics(&mut self) {
        self.topics.is_over = true;
        self.retell_topics();
    }

    /// Whether everything is being withdrawn, for ever.
    pub(crate) fn is_over(&self) -> bool {
        self.topics.is_over
    }

    /// Whether the topic's name is this daemon's alone.
    pub(crate) fn is_own(&self, topic: &Topic) -> bool {
        let of_node = topic.name.strip_prefix(TOPIC_PREFIX);
        let of_node = of_node.and_then(|name| name.strip_prefix("node:"));
        of_node.is_some_and(|of_node| {
            self.topics.identities.iter().any(|identity| match identity {
                Identity::Node(name) => of_node
                    .strip_prefix(name.as_str())
                    .is_some_and(|rest| rest.starts_with('@')),
                Identity::Pods | Identity::Pool(_) => false,
            })
        })
    }

    /// A topic for each name that is this daemon's alone. Whatever the model in it, a router forgets everything under the
    /// name when it hears there that all is cleared.
    pub(crate) fn own_topics(&self) -> Vec<Topic> {
        let names = self
            .topics
            .identities
            .iter()
            .filter_map(|identity| match identity {
                Identity::Node(name) => Some(format!("{TOPIC_PREFIX}node:{name}@-")),
                Identity::Pods | Identity::Pool(_) => None,
            });
        names
            .map(|name| Topic {
                is_partial: false,
                name: name.into(),
                tenant: 0,
                namespace: NamespaceId([0; 16]),
                tiers: TierSet::ALL,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use kvstore_types::{NamespaceId, SessionId};

    use super::{Identity, NAMES_MAX, Topics};
    use crate::book::namespace::Namespaces;

    #[test]
    fn a_name_in_use_is_announced_however_many_there_were_before() {
        let mut topics = Topics::new(vec![Identity::Node("n".to_owned())]);
        let namespace = NamespaceId([1; 16]);
        for number in 0..3 * NAMES_MAX as u64 {
            // The first one stays.
            if number > 1 {
                topics.detach(0, SessionId(number - 1));
            }
            let model = format!("served-{number}").into();
            topics.attach(0, SessionId(number), namespace, "".into(), model);
            topics.retell(&Namespaces::default());
            let is_told = |number: u64| {
                let name = format!("kv@node:n@served-{number}");
                topics.told.iter().any(|topic| *topic.name == *name)
            };
            assert!(is_told(number) && is_told(0), "{number}");
            assert!(topics.told.len() <= NAMES_MAX);
        }
        // More that are in use at once, and then are not.
        let busy = 100..100 + 2 * NAMES_MAX as u64;
        for number in busy.clone() {
            let model = format!("busy-{number}").into();
            topics.attach(0, SessionId(number), namespace, "".into(), model);
        }
        topics.retell(&Namespaces::default());
        assert!(topics.told.len() > 2 * NAMES_MAX);
        for number in busy {
            topics.detach(0, SessionId(number));
        }
        topics.attach(0, SessionId(1), namespace, "".into(), "last".into());
        topics.retell(&Namespaces::default());
        assert_eq!(topics.told.len(), NAMES_MAX);
    }
}
