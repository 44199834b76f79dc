//! Routers that dial: what they hear is about the pod they have dialled, and they ask again for what they have missed.

use kvstore_types::Tier;

use super::{Stage, TOPIC, attached, bound, detached, hear_until, key, removed, stored};
use crate::book::BookLimits;
use crate::feed::FeedItem;
use crate::publisher::PublisherConfig;
use crate::testing::{Replayer, Router, Subscriber};

/// As [`hear_until`], but as a router that has dialled a pod hears: all is about that one, whatever the topics say.
fn hear_as_dialled(subscriber: &mut Subscriber, router: &mut Router, is_enough: impl Fn(&Router) -> bool) {
    while !is_enough(router) {
        let (topic, _, payload) = subscriber.receive().expect("the publisher is there");
        let model = topic.rsplit('@').next().unwrap();
        router.hear(&format!("kv@dialled@{model}"), &payload);
        assert!(
            router.count_max() <= 1,
            "what is told twice does not end when it is withdrawn once"
        );
    }
}

/// The end of one engine used to remove what another one has, because both were told under their own names.
#[test]
fn a_router_that_dials_is_told_each_block_once_however_many_engines_come_and_go() {
    let mut stage = Stage::new(bound(), 100_000, BookLimits::default());
    stage.say((0..200).map(|number| stored(number, Tier::Host)));
    let mut subscriber = stage.subscriber();
    let mut router = Router::default();
    let served = "kv@dialled@served";
    stage.say([attached(1, "10.0.0.9:8000")]);
    hear_as_dialled(&mut subscriber, &mut router, |router| {
        router.count(served, "cpu") == 200 && router.count("kv@dialled@m", "cpu") == 0
    });
    // Each number says that everything up to it has been heard.
    let mut number = 1000;
    let mut say = |stage: &mut Stage, router: &mut Router, items: Vec<FeedItem>| {
        let more = [stored(number, Tier::Host)];
        stage.say(items.into_iter().chain(more));
        let last = (served.to_owned(), "cpu".to_owned(), key(number).hash.0.to_vec());
        hear_as_dialled(&mut subscriber, router, |router| router.blocks().contains(&last));
        number += 100;
    };
    say(&mut stage, &mut router, vec![attached(2, "10.0.0.8:8000")]);
    say(
        &mut stage,
        &mut router,
        vec![detached(1), removed(199, Tier::Host)],
    );
    say(&mut stage, &mut router, vec![attached(3, "10.0.0.7:8000")]);
    say(&mut stage, &mut router, vec![detached(2), detached(3)]);
    say(&mut stage, &mut router, vec![attached(4, "10.0.0.9:8000")]);
    assert_eq!(router.count(served, "cpu"), 199 + 5);
    stage.announcer.stop();
}

#[test]
fn what_was_sent_can_be_replayed() {
    let config = PublisherConfig {
        replay: Some("tcp://127.0.0.1:0".parse().unwrap()),
        ..bound()
    };
    let mut stage = Stage::new(config, 100_000, BookLimits::default());
    stage.say((0..1000).map(|number| stored(number, Tier::Host)));
    let mut subscriber = stage.subscriber();
    let mut router = Router::default();
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(TOPIC, "cpu") == 1000
    });
    let mut replayer = Replayer::connect(stage.announcer.addresses()[1]);
    let all = replayer.ask(0);
    let mut second = Router::default();
    for (index, (topic, number, payload)) in all.iter().enumerate() {
        assert_eq!(*number, index as u64);
        second.hear(topic, payload);
    }
    assert_eq!(second.blocks(), router.blocks());
    assert_eq!(replayer.ask(2).len(), all.len() - 2);
    // More than there is: the connection begins anew, and what it says then can be replayed as well.
    assert!(replayer.ask(1_000_000).is_empty());
    let mut third = hear_anew(&mut subscriber);
    hear_until(&mut subscriber, &mut third, |router| {
        router.count(TOPIC, "cpu") == 1000
    });
    let mut fourth = Router::default();
    for (topic, _, payload) in replayer.ask(0) {
        fourth.hear(&topic, &payload);
    }
    assert_eq!(
        (third.blocks(), fourth.blocks()),
        (router.blocks(), router.blocks())
    );
    stage.announcer.stop();
}

/// Listens until numbers begin at 0 again; what is heard from there on, a router that knows nothing else believes.
fn hear_anew(subscriber: &mut Subscriber) -> Router {
    while subscriber.receive().expect("the publisher is there").1 != 0 {}
    Router::default()
}

/// llm-d's router gives up what it knew when a replay fails, and nobody would have said it again.
#[test]
fn who_asks_for_more_than_there_is_makes_all_routers_of_its_address_hear_everything_again() {
    let config = PublisherConfig {
        replay: Some("tcp://127.0.0.1:0".parse().unwrap()),
        ..bound()
    };
    let mut stage = Stage::new(config, 100_000, BookLimits::default());
    stage.say((0..1000).map(|number| stored(number, Tier::Host)));
    let is_whole = |router: &Router| router.count(TOPIC, "cpu") == 1000;
    let mut subscribers = [stage.subscriber(), stage.subscriber()];
    for subscriber in &mut subscribers {
        hear_until(subscriber, &mut Router::default(), is_whole);
    }
    let mut replayer = Replayer::connect(stage.announcer.addresses()[1]);
    // Whose messages are these? A router takes the answer for complete, and goes on with the next message.
    assert!(replayer.ask(0).is_empty());
    for subscriber in &mut subscribers {
        hear_until(subscriber, &mut Router::default(), is_whole);
    }
    // It takes this answer for a failure, and nothing but a number 0 until it has waited.
    assert!(replayer.ask(3).is_empty());
    for subscriber in &mut subscribers {
        let mut router = hear_anew(subscriber);
        hear_until(subscriber, &mut router, is_whole);
    }
    stage.announcer.stop();
}

/// Sixty-four connections that never ask for anything used to keep everybody else out for good.
#[test]
fn connections_that_ask_for_nothing_keep_nobody_out() {
    let config = PublisherConfig {
        replay: Some("tcp://127.0.0.1:0".parse().unwrap()),
        ..bound()
    };
    let mut stage = Stage::new(config, 100_000, BookLimits::default());
    stage.say((0..100).map(|number| stored(number, Tier::Host)));
    let mut honest = stage.subscriber();
    hear_until(&mut honest, &mut Router::default(), |router| {
        router.count(TOPIC, "cpu") == 100
    });
    let replay = stage.announcer.addresses()[1];
    let mut silent: Vec<_> = (0..63).map(|_| Subscriber::connect(stage.address())).collect();
    // It has subscribed to what is nobody's: that is nothing either.
    silent[0].subscribe("x");
    let silent_replayers: Vec<_> = (0..64).map(|_| Replayer::connect(replay)).collect();
    for _ in 0..2 {
        let mut late = stage.subscriber();
        hear_until(&mut late, &mut Router::default(), |router| {
            router.count(TOPIC, "cpu") == 100
        });
    }
    // Whose messages are these? Nobody's, as there are several connections; but there is an answer.
    assert!(Replayer::connect(replay).ask(0).is_empty());
    // Who has subscribed has lost nothing.
    stage.say([removed(99, Tier::Host), stored(1000, Tier::Host)]);
    let last = (TOPIC.to_owned(), "cpu".to_owned(), key(1000).hash.0.to_vec());
    hear_until(&mut honest, &mut Router::default(), |router| {
        router.blocks().contains(&last)
    });
    drop((silent, silent_replayers));
    stage.announcer.stop();
}
