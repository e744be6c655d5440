//! What is measured over TCP.

use super::{
    Bound, Goal, Load, Metric, Reference, Row, Rule, Runtime, SMALL, Scenario, Stack, row,
};

/// The requests in flight that P9 asks about.
pub const IN_FLIGHT: [usize; 3] = [16, 64, 256];

pub(super) fn p8() -> Vec<Scenario> {
    let load = Load::Tasks {
        in_flight: 1,
        bytes: SMALL,
    };
    let rules = vec![
        Rule::ratio(Metric::P50, Reference::Limit, Bound::AtMost(1.03)),
        Rule::ratio(Metric::P99, Reference::Limit, Bound::AtMost(1.2)),
    ];
    [
        Runtime::MultiThread,
        Runtime::CurrentThread,
        Runtime::BusyPolled,
    ]
    .into_iter()
    .map(|runtime| Scenario {
        goal: Goal::P8,
        title: runtime.to_string(),
        ratios: vec![
            (Metric::P50, Reference::Limit),
            (Metric::P99, Reference::Limit),
        ],
        rows: vec![
            row("", Stack::Tcp, runtime, load),
            Row {
                rules: rules.clone(),
                ..row("", Stack::Ours, runtime, load)
            },
            row("", Stack::RsocketRust, runtime, load),
            row("", Stack::Tonic, runtime, load),
        ],
    })
    .collect()
}

pub(super) fn p9() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for runtime in [
        Runtime::MultiThread,
        Runtime::CurrentThread,
        Runtime::BusyPolled,
    ] {
        for in_flight in IN_FLIGHT {
            let tasks = Load::Tasks {
                in_flight,
                bytes: SMALL,
            };
            let window = Load::Window {
                in_flight,
                bytes: SMALL,
            };
            let in_order = Load::InOrder {
                in_flight,
                bytes: SMALL,
            };
            let rules = p9_rules(runtime, in_flight);
            scenarios.push(Scenario {
                goal: Goal::P9,
                title: format!("{runtime}, {in_flight} in flight"),
                ratios: vec![(Metric::Rate, Reference::Limit)],
                rows: vec![
                    row("", Stack::Tcp, runtime, tasks),
                    Row {
                        rules: rules.clone(),
                        ..row("tasks", Stack::Ours, runtime, tasks)
                    },
                    Row {
                        rules: rules.clone(),
                        ..row("window", Stack::Ours, runtime, window)
                    },
                    Row {
                        rules,
                        ..row("in order", Stack::Ours, runtime, in_order)
                    },
                    row("", Stack::RsocketRust, runtime, tasks),
                    row("", Stack::Tonic, runtime, tasks),
                ],
            });
        }
    }
    scenarios
}

/// A task for each request costs more than bare TCP's whole exchange while both
/// sides busy-poll, so that mode is judged by its figure and not by a ratio.
fn p9_rules(runtime: Runtime, in_flight: usize) -> Vec<Rule> {
    let widest = in_flight == 256;
    let mut rules = Vec::new();
    if runtime == Runtime::BusyPolled {
        if widest {
            rules.push(Rule::figure(Metric::Rate, Bound::AtLeast(3.0e6)));
        }
        return rules;
    }
    rules.push(Rule::ratio(
        Metric::Rate,
        Reference::Limit,
        Bound::AtLeast(0.9),
    ));
    if widest {
        rules.push(Rule::figure(Metric::Rate, Bound::AtLeast(2.5e6)));
        rules.push(Rule::figure(Metric::Cpu, Bound::AtMost(0.7)));
        rules.push(Rule::figure(Metric::Rss, Bound::AtMost(16.0e6)));
    }
    rules
}

pub(super) fn p10() -> Vec<Scenario> {
    let stream = |prefetch| Load::Stream {
        bytes: 1024,
        prefetch,
    };
    let rules = vec![
        Rule::ratio(Metric::Bytes, Reference::Limit, Bound::AtLeast(0.7)),
        Rule::figure(Metric::Rate, Bound::AtLeast(2.0e6)),
        Rule::ratio(
            Metric::Rate,
            Reference::Peer(Stack::Tonic),
            Bound::AtLeast(1.5),
        ),
    ];
    [Runtime::MultiThread, Runtime::CurrentThread]
        .into_iter()
        .map(|runtime| {
            let bulk = |write: usize| {
                let label = format!("writes of {} KiB", write / 1024);
                row(&label, Stack::Tcp, runtime, Load::Bulk { write })
            };
            Scenario {
                goal: Goal::P10,
                title: runtime.to_string(),
                ratios: vec![(Metric::Bytes, Reference::Limit)],
                rows: vec![
                    bulk(1 << 10),
                    bulk(256 << 10),
                    bulk(16 << 10),
                    Row {
                        rules: rules.clone(),
                        ..row("", Stack::Ours, runtime, stream(None))
                    },
                    Row {
                        rules: rules.clone(),
                        ..row("prefetch 1024", Stack::Ours, runtime, stream(Some(1024)))
                    },
                    row("", Stack::RsocketRust, runtime, stream(None)),
                    row("", Stack::Tonic, runtime, stream(None)),
                ],
            }
        })
        .collect()
}

pub(super) fn p11() -> Vec<Scenario> {
    let rules = vec![Rule::ratio(
        Metric::Bytes,
        Reference::BestPeer,
        Bound::AtLeast(1.15),
    )];
    let mut scenarios = Vec::new();
    for (name, bytes, in_flight) in [("64 KiB", 64 << 10, 16), ("1 MiB", 1 << 20, 1)] {
        for runtime in [Runtime::MultiThread, Runtime::CurrentThread] {
            let load = Load::Tasks { in_flight, bytes };
            scenarios.push(Scenario {
                goal: Goal::P11,
                title: format!("{name}, {runtime}, {in_flight} in flight"),
                ratios: vec![(Metric::Bytes, Reference::BestPeer)],
                rows: vec![
                    row("", Stack::Tonic, runtime, load),
                    row("", Stack::RsocketRust, runtime, load),
                    Row {
                        rules: rules.clone(),
                        ..row("", Stack::Ours, runtime, load)
                    },
                ],
            });
        }
    }
    scenarios
}
