//! What one connection has subscribed to.

/// Most subscriptions of a connection.
const SUBSCRIPTIONS_MAX: usize = 1024;

use crate::book::TOPIC_PREFIX;

/// Prefixes of topics, each as often as it was asked for.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    prefixes: Vec<Vec<u8>>,
}

impl Subscriptions {
    /// Adds one; `false`: there are too many.
    pub(super) fn add(&mut self, prefix: Vec<u8>) -> bool {
        self.prefixes.push(prefix);
        self.prefixes.len() <= SUBSCRIPTIONS_MAX
    }

    /// Takes one away.
    pub(super) fn remove(&mut self, prefix: &[u8]) {
        if let Some(index) = self.prefixes.iter().position(|other| other == prefix) {
            self.prefixes.swap_remove(index);
        }
    }

    /// Whether this topic is wanted. Topics of relays are nobody else's.
    pub(super) fn hear(&self, topic: &str) -> bool {
        let is_public = topic.starts_with(TOPIC_PREFIX);
        let mut prefixes = self.prefixes.iter();
        is_public && prefixes.any(|prefix| topic.as_bytes().starts_with(prefix))
    }

    /// A topic under which the connection hears something that belongs to nobody; none if it can hear nothing of ours.
    pub(super) fn own_topic(&self) -> Option<&[u8]> {
        let general = TOPIC_PREFIX.as_bytes();
        self.prefixes.iter().find_map(|prefix| {
            if general.starts_with(prefix) {
                Some(general)
            } else {
                prefix.starts_with(general).then_some(prefix.as_slice())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_heard_while_any_prefix_of_it_is_wanted() {
        let mut subscriptions = Subscriptions::default();
        assert!(!subscriptions.hear("kv@a@m"));
        for prefix in ["kv@", "kv@a", "kv@a"] {
            assert!(subscriptions.add(prefix.into()));
        }
        subscriptions.remove(b"kv@");
        assert!(subscriptions.hear("kv@a@m") && !subscriptions.hear("kv@b@m"));
        subscriptions.remove(b"kv@a");
        assert!(subscriptions.hear("kv@a@m"), "it was wanted twice");
        subscriptions.remove(b"kv@a");
        assert!(!subscriptions.hear("kv@a@m"));
    }

    #[test]
    fn the_first_message_is_one_that_the_connection_hears() {
        for (prefix, topic) in [
            ("", Some("kv@")),
            ("kv", Some("kv@")),
            ("kv@a", Some("kv@a")),
            ("x", None),
        ] {
            let mut subscriptions = Subscriptions::default();
            subscriptions.add(prefix.into());
            assert_eq!(subscriptions.own_topic(), topic.map(str::as_bytes), "{prefix}");
        }
    }
}
