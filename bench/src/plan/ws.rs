//! What is measured over WebSocket.

use super::{
    Bound, Goal, Load, Metric, Reference, Row, Rule, Runtime, SMALL, Scenario, Stack, row,
};

pub(super) fn p12() -> Vec<Scenario> {
    let tcp = Reference::Peer(Stack::Ours);
    let alone = Load::Tasks {
        in_flight: 1,
        bytes: SMALL,
    };
    let window = Load::Window {
        in_flight: 256,
        bytes: SMALL,
    };
    let stream = Load::Stream {
        bytes: 1024,
        prefetch: None,
    };
    let p50 = Rule::ratio(Metric::P50, tcp, Bound::AtMost(1.1));
    let rate = Rule::ratio(Metric::Rate, tcp, Bound::AtLeast(0.6));
    let mut scenarios = Vec::new();
    for runtime in [Runtime::MultiThread, Runtime::CurrentThread] {
        for (name, load, rule) in [
            ("one in flight", alone, p50),
            ("256 in flight", window, rate),
            ("stream of 1 KiB", stream, rate),
        ] {
            scenarios.push(Scenario {
                goal: Goal::P12,
                title: format!("{name}, {runtime}"),
                ratios: vec![(rule.metric, tcp)],
                rows: vec![
                    row("", Stack::Ours, runtime, load),
                    Row {
                        rules: vec![rule],
                        ..row("", Stack::OursWs, runtime, load)
                    },
                ],
            });
        }
    }
    scenarios
}
