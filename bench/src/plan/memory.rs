//! What is measured inside one process.

use super::{
    Bound, Goal, Load, Metric, Reference, Row, Rule, Runtime, SMALL, Scenario, Stack, row,
};

pub(super) fn p2() -> Vec<Scenario> {
    let rules = vec![
        Rule::figure(Metric::CpuNanos, Bound::AtMost(300.0)),
        // A background task may allocate once in a while; a request may not.
        Rule::figure(Metric::Allocs, Bound::AtMost(0.001)),
    ];
    let runtime = Runtime::CurrentThread;
    [1, 64]
        .into_iter()
        .map(|in_flight| {
            let load = Load::InProcess {
                in_flight,
                bytes: SMALL,
            };
            Scenario {
                goal: Goal::P2,
                title: format!("{in_flight} in flight"),
                ratios: vec![(Metric::CpuNanos, Reference::Limit)],
                rows: vec![
                    row("", Stack::Actor, runtime, load),
                    Row {
                        rules: rules.clone(),
                        ..row("", Stack::Ours, runtime, load)
                    },
                ],
            }
        })
        .collect()
}
