//! Bar charts of a report, as SVG.
//!
//! One row of panels for each goal. A bar is a median over the windows, its
//! whisker goes from the least to the greatest of them.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::plan::{Goal, Load, Metric, Runtime, Stack};
use crate::report::{Report, RowReport, ScenarioReport, figure};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 1480;
const ROW_HEIGHT: u32 = 320;
const HEAD_HEIGHT: u32 = 92;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);

/// Panels side by side.
struct Strip {
    title: String,
    panels: Vec<Panel>,
}

/// Groups of bars over one axis.
struct Panel {
    title: String,
    metric: Metric,
    groups: Vec<Group>,
}

/// Bars that were measured in turn.
struct Group {
    label: String,
    bars: Vec<Bar>,
}

struct Bar {
    color: RGBColor,
    median: f64,
    least: f64,
    greatest: f64,
}

/// Draws `report` into the file `to`.
///
/// # Errors
///
/// When the report holds nothing to draw, or the file cannot be written.
pub fn draw(report: &Report, to: &Path) -> Result<()> {
    let strips = strips(report);
    ensure!(!strips.is_empty(), "the report holds nothing to draw");
    let rows = u32::try_from(strips.len())?;
    let backend = SVGBackend::new(to, (WIDTH, HEAD_HEIGHT + rows * ROW_HEIGHT));
    paint(report, &strips, &backend.into_drawing_area())
        .map_err(|error| anyhow!("drawing {}: {error}", to.display()))
}

fn strips(report: &Report) -> Vec<Strip> {
    let mut strips = Vec::new();
    for &goal in &report.settings.goals {
        let mut strip = Strip {
            title: format!("{goal}: {}", goal.title()),
            panels: Vec::new(),
        };
        for scenario in report
            .scenarios
            .iter()
            .filter(|scenario| scenario.goal == goal)
        {
            let Some(metric) = shown(goal) else { continue };
            let group = Group {
                label: group_label(scenario),
                bars: scenario
                    .rows
                    .iter()
                    .filter_map(|row| bar(row, metric))
                    .collect(),
            };
            if group.bars.is_empty() {
                continue;
            }
            let title = panel_title(scenario);
            match strip.panels.last_mut().filter(|panel| panel.title == title) {
                Some(panel) => panel.groups.push(group),
                None => strip.panels.push(Panel {
                    title,
                    metric,
                    groups: vec![group],
                }),
            }
        }
        if !strip.panels.is_empty() {
            strips.push(strip);
        }
    }
    strips
}

const fn shown(goal: Goal) -> Option<Metric> {
    match goal {
        Goal::P1 => None,
        Goal::P2 => Some(Metric::CpuNanos),
        Goal::P3 | Goal::P4 | Goal::P8 => Some(Metric::P50),
        Goal::P5 | Goal::P6 | Goal::P9 | Goal::P12 => Some(Metric::Rate),
        Goal::P7 | Goal::P10 | Goal::P11 => Some(Metric::Bytes),
    }
}

/// Scenarios of P9 and P2 that differ only in what is in flight share a panel.
fn panel_title(scenario: &ScenarioReport) -> String {
    match (scenario.goal, scenario.rows.first()) {
        (Goal::P2 | Goal::P9, Some(row)) => {
            let runtime: Runtime = row.work.runtime;
            format!(
                "{}, {runtime}",
                shown(scenario.goal).map_or("", Metric::name)
            )
        }
        (goal, _) => format!(
            "{}, {}",
            shown(goal).map_or("", Metric::name),
            scenario.title
        ),
    }
}

fn group_label(scenario: &ScenarioReport) -> String {
    match (
        scenario.goal,
        scenario.rows.first().map(|row| row.work.load),
    ) {
        (
            Goal::P2 | Goal::P9,
            Some(Load::Tasks { in_flight, .. } | Load::InProcess { in_flight, .. }),
        ) => format!("{in_flight} in flight"),
        _ => String::new(),
    }
}

fn bar(row: &RowReport, metric: Metric) -> Option<Bar> {
    let values = || {
        row.windows
            .iter()
            .flatten()
            .filter_map(|figures| figures.get(&metric))
    };
    Some(Bar {
        color: color(row),
        median: *row.medians.get(&metric)?,
        least: values().copied().reduce(f64::min)?,
        greatest: values().copied().reduce(f64::max)?,
    })
}

/// Colours that people with any kind of colour vision can tell apart
/// (Okabe and Ito).
const fn color(row: &RowReport) -> RGBColor {
    match (row.work.stack, row.work.load) {
        (Stack::Tcp, Load::Bulk { write: 0..=1024 }) => RGBColor(200, 200, 200),
        (Stack::Tcp, Load::Bulk { write: 0..=16_384 }) => RGBColor(120, 120, 120),
        (Stack::EventfdAwaited, _) => RGBColor(120, 120, 120),
        (Stack::Tcp | Stack::Actor | Stack::Ring | Stack::Eventfd, _) => RGBColor(160, 160, 160),
        (
            Stack::Ours,
            Load::Window { .. }
            | Load::Stream {
                prefetch: Some(_), ..
            },
        ) => RGBColor(86, 180, 233),
        (Stack::Ours, Load::InOrder { .. }) => RGBColor(0, 60, 110),
        (Stack::Ours, _) => RGBColor(0, 114, 178),
        (Stack::OursWs, _) => RGBColor(86, 180, 233),
        (
            Stack::OursShm,
            Load::Window { .. }
            | Load::Stream {
                prefetch: Some(_), ..
            },
        ) => RGBColor(225, 140, 110),
        (Stack::OursShm, Load::InOrder { .. }) => RGBColor(120, 50, 0),
        (Stack::OursShm | Stack::OursShmAsleep, _) => RGBColor(213, 94, 0),
        (Stack::OursShmTrusted, _) => RGBColor(240, 180, 150),
        (Stack::OursShmPolling, _) => RGBColor(250, 215, 195),
        (Stack::Iceoryx, _) => RGBColor(204, 121, 167),
        (Stack::IceoryxPublished, _) => RGBColor(235, 190, 215),
        (Stack::RsocketRust, _) => RGBColor(230, 159, 0),
        (Stack::Tonic, _) => RGBColor(0, 158, 115),
    }
}

type Painted = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn paint(report: &Report, strips: &[Strip], root: &Area<'_>) -> Painted {
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(HEAD_HEIGHT);
    paint_head(report, &head)?;
    for (strip, area) in strips.iter().zip(body.split_evenly((strips.len(), 1))) {
        let area = area.titled(&strip.title, (FONT, 17).into_font().color(&INK))?;
        for (panel, area) in strip
            .panels
            .iter()
            .zip(area.split_evenly((1, strip.panels.len())))
        {
            paint_panel(panel, &area.margin(4, 4, 10, 10))?;
        }
    }
    root.present()
}

fn paint_head(report: &Report, area: &Area<'_>) -> Painted {
    let machine = &report.machine;
    let line = format!(
        "{}, Linux {}, commit {}; cache line round trip {:.0} ns; {} turns of {} s{}",
        machine.cpu,
        machine.kernel,
        machine.commit,
        report.cache_line_ns[0],
        report.settings.pairs,
        report.settings.seconds,
        if report.settings.yields_a_result() {
            ""
        } else {
            " (a check, not a result)"
        },
    );
    area.draw(&Text::new(
        line,
        (16, 12),
        (FONT, 14).into_font().color(&INK),
    ))?;

    let mut entries: Vec<(&str, RGBColor)> = Vec::new();
    for row in report.scenarios.iter().flat_map(|scenario| &scenario.rows) {
        let entry = (row.label.as_str(), color(row));
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    let (mut x, mut y) = (16, 38);
    for (label, color) in entries {
        // About 7.5 pixels a letter at this size.
        let wide = 44 + i32::try_from(label.len() * 15 / 2).unwrap_or(0);
        if x + wide > WIDTH.cast_signed() {
            (x, y) = (16, y + 24);
        }
        area.draw(&Rectangle::new([(x, y), (x + 14, y + 14)], color.filled()))?;
        let style = (FONT, 14).into_font().color(&INK);
        area.draw(&Text::new(label, (x + 20, y + 1), style))?;
        x += wide;
    }
    Ok(())
}

fn paint_panel(panel: &Panel, area: &Area<'_>) -> Painted {
    let top = panel
        .groups
        .iter()
        .flat_map(|group| &group.bars)
        .map(|bar| bar.greatest.min(bar.median * 1.5))
        .fold(0.0, f64::max);
    // A bar is one wide; a group has half a bar of air on each side.
    let needed: f64 = panel
        .groups
        .iter()
        .map(|group| group.bars.len() as f64 + 1.0)
        .sum();
    // Air on both sides rather than bars as wide as a house.
    let width = needed.max(8.0);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 14).into_font().color(&INK))
        .x_label_area_size(22)
        .y_label_area_size(74)
        .build_cartesian_2d(0.0..width, 0.0..top * 1.15)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(FAINT)
        .y_labels(6)
        .y_label_formatter(&|&value| {
            if value == 0.0 {
                "0".to_owned()
            } else {
                figure(panel.metric, value)
            }
        })
        .label_style((FONT, 12).into_font().color(&INK))
        .draw()?;

    let centered = |vertical| Pos::new(HPos::Center, vertical);
    // Numbers above many thin bars stand upright, or they would overlap.
    let small = if width > 14.0 {
        let upright = (FONT, 11).into_font().transform(FontTransform::Rotate270);
        upright.color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
    } else {
        let level = (FONT, 11).into_font();
        level.color(&INK).pos(centered(VPos::Bottom))
    };
    let below = (FONT, 12).into_font().color(&INK).pos(centered(VPos::Top));
    let mut left = 0.5 + (width - needed) / 2.0;
    for group in &panel.groups {
        let middle = left + group.bars.len() as f64 / 2.0;
        chart
            .draw_series([EmptyElement::at((middle, 0.0))
                + Text::new(group.label.clone(), (0, 6), below.clone())])?;
        for bar in &group.bars {
            let (from, to) = (left + 0.06, left + 0.94);
            let center = left + 0.5;
            chart.draw_series([Rectangle::new(
                [(from, 0.0), (to, bar.median)],
                bar.color.filled(),
            )])?;
            let whisker = [(center, bar.least), (center, bar.greatest.min(top * 1.08))];
            chart.draw_series([PathElement::new(whisker.to_vec(), INK)])?;
            let label = figure(panel.metric, bar.median);
            chart.draw_series([
                EmptyElement::at(whisker[1]) + Text::new(short(&label), (0, -4), small.clone())
            ])?;
            left += 1.0;
        }
        left += 1.0;
    }
    Ok(())
}

/// The number without its unit, which the axis shows.
fn short(label: &str) -> String {
    match label.split_once(' ') {
        Some((number, unit)) if unit.starts_with(['M', 'k']) && unit.ends_with("/s") => {
            format!("{number}{}", &unit[..1])
        }
        Some((number, _)) => number.to_owned(),
        None => label.to_owned(),
    }
}
