//! Two plots as plain SVG: ratios with their bounds on a logarithmic axis, and what a request costs, part by part.
//!
//! It must not know how rows came about.

use std::fmt::Write as _;

use anyhow::Result;

use crate::bench::proxies::row::Row;
use crate::bench::proxies::sample::Cost;

/// A ratio below 1 is better than the peer.
pub(crate) fn ratios(rows: &[Row]) -> Result<String> {
    let judged: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row, row.judged.as_ref()?)))
        .collect();
    let (least, most) = judged.iter().fold((0.5_f64, 2.0_f64), |(least, most), (_, one)| {
        (least.min(one.min), most.max(one.max))
    });
    // Whole powers of two on both ends.
    let (low, high) = (least.log2().floor(), most.log2().ceil());
    let x = |ratio: f64| LEFT + (ratio.log2() - low) / (high - low) * WIDTH;
    let bottom = TOP + LINE * rows_high(judged.len());
    let mut svg = head(bottom + 30.0, "Mesh by peer; left of 1 the mesh costs less")?;
    let mut tick = low;
    while tick <= high {
        let (at, color) = (x(tick.exp2()), if tick.abs() < 1e-9 { "#c00" } else { "#ddd" });
        writeln!(
            svg,
            r#"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{bottom}" stroke="{color}"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            bottom + 16.0,
            tick.exp2()
        )?;
        tick += 1.0;
    }
    for (index, (row, one)) in judged.iter().enumerate() {
        let y = TOP + LINE * (rows_high(index) + 0.5);
        let color = if one.ratio > 1.0 { "#b5481f" } else { "#1f6fb5" };
        label(&mut svg, y, &format!("{} {}", row.workload.key, row.peer.name()))?;
        writeln!(
            svg,
            r#"<line x1="{:.1}" y1="{y}" x2="{:.1}" y2="{y}" stroke="{color}" stroke-width="2"/><circle cx="{:.1}" cy="{y}" r="4" fill="{color}"/><text x="{:.1}" y="{:.1}">{:.2}</text>"#,
            x(one.min),
            x(one.max),
            x(one.ratio),
            LEFT + WIDTH + 12.0,
            y + 4.0,
            one.ratio
        )?;
    }
    Ok(svg + "</svg>\n")
}

/// A bar for each side of each row of requests.
pub(crate) fn costs(rows: &[Row]) -> Result<String> {
    let bars = rows.iter().filter_map(|row| {
        let requests = row.requests.as_ref()?;
        let name = |who: &str| format!("{} {who}", row.workload.key);
        let ours = (
            name(&format!("mesh, beside {}", row.peer.name())),
            requests.cost_ours?,
        );
        Some([ours, (name(row.peer.name()), requests.cost_theirs?)])
    });
    let bars: Vec<(String, Cost)> = bars.flatten().collect();
    let most = bars.iter().map(|(_, cost)| cost.whole_path()).fold(1.0, f64::max);
    let bottom = TOP + LINE * rows_high(bars.len());
    let mut svg = head(bottom + 30.0, "Processor time of one request, µs")?;
    for (index, (name, cost)) in bars.iter().enumerate() {
        let y = TOP + LINE * rows_high(index);
        label(&mut svg, y + LINE / 2.0, name)?;
        let mut x = LEFT;
        for (part, (_, color)) in parts(cost).into_iter().zip(PARTS) {
            let width = part / most * WIDTH;
            writeln!(
                svg,
                r#"<rect x="{x:.1}" y="{:.1}" width="{width:.1}" height="{:.1}" fill="{color}"/>"#,
                y + 3.0,
                LINE - 6.0
            )?;
            x += width;
        }
        writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}">{:.1}</text>"#,
            x + 6.0,
            y + 14.0,
            cost.whole_path()
        )?;
    }
    for (index, (name, color)) in PARTS.iter().enumerate() {
        let x = LEFT + 150.0 * rows_high(index);
        writeln!(
            svg,
            r#"<rect x="{x}" y="{:.1}" width="10" height="10" fill="{color}"/><text x="{:.1}" y="{:.1}">{name}</text>"#,
            bottom + 8.0,
            x + 15.0,
            bottom + 17.0
        )?;
    }
    Ok(svg + "</svg>\n")
}

fn parts(cost: &Cost) -> [f64; 4] {
    [cost.client, cost.proxies, cost.backend, cost.interrupts]
}

fn head(height: f64, title: &str) -> Result<String> {
    let width = LEFT + WIDTH + 70.0;
    let mut svg = String::new();
    writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#222">
<rect width="100%" height="100%" fill="#fff"/>
<text x="{LEFT}" y="18" font-weight="bold">{title}</text>"##
    )?;
    Ok(svg)
}

fn label(svg: &mut String, y: f64, text: &str) -> Result<()> {
    let (x, y) = (LEFT - 10.0, y + 4.0);
    writeln!(svg, r#"<text x="{x}" y="{y:.1}" text-anchor="end">{text}</text>"#)?;
    Ok(())
}

/// How many lines lie above a row. There are never more than a few dozens.
fn rows_high(rows: usize) -> f64 {
    u16::try_from(rows).map_or(f64::from(u16::MAX), f64::from)
}

const PARTS: [(&str, &str); 4] = [
    ("client", "#9db8d2"),
    ("proxies", "#1f6fb5"),
    ("server", "#c9c9c9"),
    ("kernel threads", "#e0a458"),
];
const LEFT: f64 = 190.0;
const WIDTH: f64 = 560.0;
const TOP: f64 = 30.0;
const LINE: f64 = 20.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::blocks::{Block, Comparison, Side};
    use crate::bench::proxies::peer::Peer;
    use crate::bench::proxies::workload::WORKLOADS;

    fn row(ours: f64) -> Row {
        let block = Block::take(|side| Ok::<_, ()>(if side == Side::Ours { ours } else { 1.0 })).unwrap();
        Row::of_memory(WORKLOADS[6], Peer::Envoy, Comparison::of(&[block], |kib| *kib))
    }

    #[test]
    fn a_point_lies_left_of_one_exactly_when_the_mesh_costs_less() {
        let svg = ratios(&[row(0.5), row(4.0)]).unwrap();
        let numbers = |element: &str, name: &str| -> Vec<f64> {
            let found = svg
                .split(element)
                .skip(1)
                .filter_map(|rest| rest.split(&format!("{name}=\"")).nth(1));
            found
                .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
                .collect()
        };
        let points = numbers("<circle", "cx");
        let one = svg.lines().find(|line| line.contains("#c00")).unwrap();
        let one: f64 = one
            .split("x1=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(points[0] < one && one < points[1], "{points:?} {one}");
        assert!(
            points.iter().all(|point| (LEFT..=LEFT + WIDTH).contains(point)),
            "{points:?}"
        );
    }

    #[test]
    fn nothing_to_plot_is_an_empty_plot() {
        assert!(ratios(&[]).unwrap().ends_with("</svg>\n"));
        assert!(costs(&[row(1.0)]).unwrap().ends_with("</svg>\n"));
    }
}
