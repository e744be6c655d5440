//! What is measured between two processes that share memory.

use super::{
    Bound, Goal, Load, Metric, RUNTIMES, Reference, Rule, Runtime, SMALL, Scenario, Stack, judged,
    on_one_core, row,
};

pub(super) fn p3() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for runtime in RUNTIMES {
        for (name, bytes) in [("32 B", SMALL), ("1 KiB", 1024)] {
            let load = Load::Tasks {
                in_flight: 1,
                bytes,
            };
            // With both cores on one cache; apart, the goal is 1.4 times.
            let mut rules = vec![Rule::ratio(
                Metric::P50,
                Reference::Limit,
                Bound::AtMost(1.8),
            )];
            if bytes != SMALL {
                rules.clear();
            }
            scenarios.push(Scenario {
                goal: Goal::P3,
                title: format!("{name}, {runtime}"),
                ratios: vec![
                    (Metric::P50, Reference::Limit),
                    (Metric::P99, Reference::Limit),
                ],
                rows: vec![
                    row("", Stack::Ring, runtime, load),
                    judged(rules, row("", Stack::OursShm, runtime, load)),
                    row("busy-polled", Stack::Ours, Runtime::BusyPolled, load),
                    row("", Stack::Iceoryx, runtime, load),
                    row("", Stack::IceoryxPublished, runtime, load),
                    row("busy-polled", Stack::Tonic, Runtime::BusyPolled, load),
                ],
            });
        }
    }
    scenarios
}

pub(super) fn p4() -> Vec<Scenario> {
    let load = Load::Tasks {
        in_flight: 1,
        bytes: SMALL,
    };
    let rules = vec![
        Rule::ratio(Metric::P50, Reference::Limit, Bound::AtMost(1.05)),
        Rule::ratio(Metric::P99, Reference::Limit, Bound::AtMost(1.2)),
    ];
    let ratios = vec![
        (Metric::P50, Reference::Limit),
        (Metric::P99, Reference::Limit),
    ];
    let apart = RUNTIMES.into_iter().map(|runtime| Scenario {
        goal: Goal::P4,
        title: runtime.to_string(),
        ratios: ratios.clone(),
        rows: vec![
            row("", Stack::Eventfd, runtime, load),
            row("", Stack::EventfdAwaited, runtime, load),
            judged(rules.clone(), row("", Stack::OursShmAsleep, runtime, load)),
            row("", Stack::Ours, runtime, load),
            row("", Stack::Tonic, runtime, load),
        ],
    });
    // Where who polls keeps the other from its turn.
    let together = RUNTIMES.into_iter().map(|runtime| {
        let rows = [
            row("", Stack::Eventfd, runtime, load),
            row("adaptive", Stack::OursShm, runtime, load),
            row("", Stack::OursShmAsleep, runtime, load),
            row("", Stack::Ours, runtime, load),
            row("", Stack::Tonic, runtime, load),
            row("", Stack::Iceoryx, runtime, load),
        ];
        Scenario {
            goal: Goal::P4,
            title: format!("{runtime}, one core"),
            ratios: ratios.clone(),
            rows: rows.into_iter().map(on_one_core).collect(),
        }
    });
    apart.chain(together).collect()
}

pub(super) fn p5() -> Vec<Scenario> {
    let (in_flight, bytes) = (64, SMALL);
    let tasks = Load::Tasks { in_flight, bytes };
    let window = Load::Window { in_flight, bytes };
    let in_order = Load::InOrder { in_flight, bytes };
    let rate = |least| vec![Rule::figure(Metric::Rate, Bound::AtLeast(least))];
    RUNTIMES
        .into_iter()
        .map(|runtime| Scenario {
            goal: Goal::P5,
            title: runtime.to_string(),
            ratios: vec![(Metric::Rate, Reference::Limit)],
            rows: vec![
                row("", Stack::Ring, runtime, tasks),
                judged(rate(6.0e6), row("tasks", Stack::OursShm, runtime, tasks)),
                row("window", Stack::OursShm, runtime, window),
                judged(
                    rate(10.0e6),
                    row("in order", Stack::OursShm, runtime, in_order),
                ),
                row("tasks", Stack::Ours, runtime, tasks),
                row("", Stack::Iceoryx, runtime, in_order),
                row("", Stack::Tonic, runtime, tasks),
            ],
        })
        .collect()
}

pub(super) fn p6() -> Vec<Scenario> {
    let stream = |prefetch| Load::Stream {
        bytes: 1024,
        prefetch,
    };
    // The goal is the lesser of this and ten million a second.
    let rules = vec![Rule::ratio(
        Metric::Rate,
        Reference::Limit,
        Bound::AtLeast(0.5),
    )];
    RUNTIMES
        .into_iter()
        .map(|runtime| Scenario {
            goal: Goal::P6,
            title: runtime.to_string(),
            ratios: vec![(Metric::Rate, Reference::Limit)],
            rows: vec![
                row("", Stack::Ring, runtime, stream(None)),
                judged(
                    rules.clone(),
                    row("", Stack::OursShm, runtime, stream(None)),
                ),
                judged(
                    rules.clone(),
                    row("prefetch 1024", Stack::OursShm, runtime, stream(Some(1024))),
                ),
                row("prefetch 1024", Stack::Ours, runtime, stream(Some(1024))),
                row("", Stack::Tonic, runtime, stream(None)),
            ],
        })
        .collect()
}

pub(super) fn p7() -> Vec<Scenario> {
    let rules = vec![Rule::ratio(
        Metric::Bytes,
        Reference::BestPeer,
        Bound::AtLeast(1.0),
    )];
    let mut scenarios = Vec::new();
    for (name, bytes) in [("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        for runtime in RUNTIMES {
            let load = Load::Tasks {
                in_flight: 1,
                bytes,
            };
            scenarios.push(Scenario {
                goal: Goal::P7,
                title: format!("{name}, {runtime}, one in flight"),
                ratios: vec![(Metric::Bytes, Reference::BestPeer)],
                rows: vec![
                    row("", Stack::Ring, runtime, load),
                    row("", Stack::OursShm, runtime, load),
                    row("", Stack::OursShmTrusted, runtime, load),
                    judged(rules.clone(), row("", Stack::OursShmPolling, runtime, load)),
                    row("", Stack::Iceoryx, runtime, load),
                    row("", Stack::IceoryxPublished, runtime, load),
                    row("", Stack::Ours, runtime, load),
                    row("", Stack::Tonic, runtime, load),
                ],
            });
        }
    }
    scenarios
}
