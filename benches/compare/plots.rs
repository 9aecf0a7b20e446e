//! The curves as SVG: cost against pairs, memory against peers, latency by percentile; all contenders in each.

use std::fs;
use std::ops::Range;
use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use trunkline::load::Latency;

use crate::Failure;
use crate::loads::Point;
use crate::results::{Results, Row, median, range};

/// Pixels, width and height.
const SIZE: (u32, u32) = (760, 420);
/// The vertical axis reaches so many times as far as the curves: the legend stands above them.
const HEADROOM: f64 = 1.4;
/// Told apart by those who see no colours too: they differ in lightness.
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 90, 160),
    RGBColor(230, 140, 0),
    RGBColor(0, 130, 90),
    RGBColor(170, 60, 110),
];
/// The marks of the latency curve's horizontal axis.
const PERCENTILES: [Percentile; 5] = [
    Percentile("50 %", |latency| latency.p50),
    Percentile("90 %", |latency| latency.p90),
    Percentile("99 %", |latency| latency.p99),
    Percentile("99.9 %", |latency| latency.p999),
    Percentile("longest", |latency| latency.max),
];

/// How a share of the messages is called, and how long they took at most.
struct Percentile(&'static str, fn(&Latency) -> f64);

/// One contender's curve.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// What a plot says besides its curves.
struct Labels<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
}

/// Draws all plots whose loads have run.
pub(crate) fn draw(results: &Results, directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory)?;
    let pairs = |title| Labels {
        title,
        x: "pairs",
        y: "us of CPU a message",
    };
    let cost = curves(results, |point| match point {
        Point::CostSingly(pairs) => Some(pairs),
        _ => None,
    });
    over_pairs(
        &directory.join("cost-1-a-write.svg"),
        &pairs("Cost of a message, 1 a write"),
        &cost,
    )?;
    let cost = curves(results, |point| match point {
        Point::CostBatched(pairs) => Some(pairs),
        _ => None,
    });
    over_pairs(
        &directory.join("cost-16-a-write.svg"),
        &pairs("Cost of a message, 16 a write"),
        &cost,
    )?;
    let memory = curves(results, |point| match point {
        Point::Memory(peers) => Some(peers),
        _ => None,
    });
    let labels = Labels {
        title: "Memory of an idle peer",
        x: "connected peers",
        y: "KiB a peer",
    };
    over_peers(&directory.join("memory.svg"), &labels, &memory)?;
    let labels = Labels {
        title: "One-way latency, 10 pairs, 200 messages a second each",
        x: "messages that took no longer",
        y: "us",
    };
    over_percentiles(&directory.join("latency.svg"), &labels, &latencies(results))
}

/// The medians of all loads that have a place on the curve, by contender.
fn curves(results: &Results, place: fn(Point) -> Option<f64>) -> Vec<Curve> {
    by_contender(results, |index| {
        let point = |row: &Row| Some((place(row.case.point?)?, median(row.figures(index))?));
        results.rows.iter().filter_map(point).collect()
    })
}

/// Each percentile is the median of the rounds'.
fn latencies(results: &Results) -> Vec<Curve> {
    let row = results
        .rows
        .iter()
        .find(|row| row.case.point == Some(Point::Latency));
    by_contender(results, |index| {
        let reports = row.map_or(&[][..], |row| &row.reports[index]);
        let point = |(mark, percentile): (usize, &Percentile)| {
            let latencies = reports.iter().filter_map(|report| report.latency.as_ref());
            Some((mark as f64, median(latencies.map(percentile.1).collect())?))
        };
        PERCENTILES.iter().enumerate().filter_map(point).collect()
    })
}

/// The curves that have points.
fn by_contender(results: &Results, points: impl Fn(usize) -> Vec<(f64, f64)>) -> Vec<Curve> {
    let curve = |(index, contender): (usize, &crate::Contender)| Curve {
        name: contender.name.clone(),
        points: points(index),
    };
    let all = results.contenders.iter().enumerate().map(curve);
    all.filter(|curve| !curve.points.is_empty()).collect()
}

/// Pairs on a logarithmic axis, the figure from zero on.
fn over_pairs(file: &Path, labels: &Labels<'_>, curves: &[Curve]) -> Result<(), Failure> {
    let (xs, ys) = spans(curves);
    let axes = Axes {
        x: (xs.start * 0.9..xs.end * 1.1).log_scale(),
        y: 0.0..ys.end * HEADROOM,
        x_name: &|count| format!("{count:.0}"),
        y_name: &|value| format!("{value:.1}"),
    };
    plot(file, labels, curves, axes)
}

/// Both axes from zero on.
fn over_peers(file: &Path, labels: &Labels<'_>, curves: &[Curve]) -> Result<(), Failure> {
    let (xs, ys) = spans(curves);
    let axes = Axes {
        x: 0.0..xs.end * 1.05,
        y: 0.0..ys.end * HEADROOM,
        x_name: &|count| format!("{count:.0}"),
        y_name: &|value| format!("{value:.1}"),
    };
    plot(file, labels, curves, axes)
}

/// One mark for each percentile, and a logarithmic axis: the last are far from the first.
fn over_percentiles(file: &Path, labels: &Labels<'_>, curves: &[Curve]) -> Result<(), Failure> {
    let (_, ys) = spans(curves);
    let axes = Axes {
        x: -0.2..PERCENTILES.len() as f64 - 0.8,
        y: (decade(ys.start)..ys.end * HEADROOM).log_scale(),
        x_name: &|mark| {
            let (whole, nearest) = ((mark - mark.round()).abs() < 0.01, mark.round().max(0.0));
            let name = PERCENTILES.get(nearest as usize).filter(|_| whole);
            name.map_or_else(String::new, |percentile| percentile.0.to_owned())
        },
        y_name: &|value| format!("{value:.0}"),
    };
    plot(file, labels, curves, axes)
}

/// The power of ten at or below a value.
fn decade(value: f64) -> f64 {
    10_f64.powf(value.max(1.0).log10().floor())
}

/// The axes of one plot, and how their marks are written.
struct Axes<'a, X, Y> {
    x: X,
    y: Y,
    x_name: &'a dyn Fn(&f64) -> String,
    y_name: &'a dyn Fn(&f64) -> String,
}

fn plot<X, Y>(
    file: &Path,
    labels: &Labels<'_>,
    curves: &[Curve],
    axes: Axes<'_, X, Y>,
) -> Result<(), Failure>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
{
    // Its loads were left out with `--only`.
    if curves.is_empty() {
        return Ok(());
    }
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(labels.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(60)
        .build_cartesian_2d(axes.x, axes.y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(6)
        .x_desc(labels.x)
        .y_desc(labels.y)
        .x_label_formatter(axes.x_name)
        .y_label_formatter(axes.y_name)
        .label_style(("sans-serif", 14))
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let line = LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(&curve.name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        let dots = curve
            .points
            .iter()
            .map(|point| Circle::new(*point, 4, colour.filled()));
        chart.draw_series(dots)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 14))
        .draw()?;
    area.present()?;
    Ok(())
}

/// How far the points reach on both axes.
fn spans(curves: &[Curve]) -> (Range<f64>, Range<f64>) {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let span = |values: Vec<f64>| {
        let (least, most) = range(&values);
        least..most
    };
    (
        span(points().map(|point| point.0).collect()),
        span(points().map(|point| point.1).collect()),
    )
}
