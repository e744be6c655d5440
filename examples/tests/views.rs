//! The `views` example runs to its end, and both services give the same answers.
#![cfg(target_os = "linux")]

use std::{path::Path, process::Command};

#[test]
fn messages_and_views_are_worth_the_same_and_both_are_measured() {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join("views");
    assert!(program.exists(), "first: cargo build --example views");
    let output = Command::new(program)
        .args(["--turns", "3", "--requests", "5"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let table = String::from_utf8(output.stdout).unwrap();
    // Four ways and the ratio, with four figures each.
    let rows: Vec<_> = table.lines().skip(4).collect();
    assert_eq!(rows.len(), 5, "{table}");
    for row in rows {
        let figures = row
            .split_whitespace()
            .rev()
            .map_while(|word| word.parse::<f64>().ok());
        let count = figures.filter(|figure| *figure > 0.0).count();
        assert_eq!(count, 4, "{table}");
    }
}
