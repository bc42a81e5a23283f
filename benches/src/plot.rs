//! A plot as an SVG picture: a point for each value, a colour for each series. Pure: writes no file.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 408.0;
const MARGIN: f64 = 48.0;
/// Above the numbers: a title and three rows of names.
const TOP: f64 = 96.0;
/// Told apart by those who see fewer colours, too (Okabe and Ito 2008); the first two by those who see none.
const COLOURS: [&str; 6] = [
    "#1b4f8a", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#666666",
];

/// Values in the order in which they were measured.
pub(crate) struct Series<'a> {
    pub(crate) name: &'a str,
    pub(crate) values: Vec<f64>,
}

/// Draws up to six series over their numbers, from 0 up.
pub(crate) fn plot(title: &str, x: &str, y: &str, series: &[Series<'_>]) -> String {
    let values = || series.iter().flat_map(|series| &series.values);
    let top = values().copied().fold(f64::MIN_POSITIVE, f64::max);
    let longest = series.iter().map(|series| series.values.len()).max();
    let last = longest.unwrap_or(0).saturating_sub(1).max(1) as f64;
    let at = |n: usize, value: f64| {
        let (across, up) = (n as f64 / last, value / top);
        (
            MARGIN + across * (WIDTH - 2.0 * MARGIN),
            HEIGHT - MARGIN - up * (HEIGHT - MARGIN - TOP),
        )
    };
    let (left, bottom, right) = (MARGIN, HEIGHT - MARGIN, WIDTH - MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"20\" font-size=\"14\">{title}</text>\n\
         <path d=\"M{left} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"4\" y=\"{TOP}\" dy=\"12\">{top:.2} {y}</text>\n\
         <text x=\"4\" y=\"{bottom}\">0</text>\n\
         <text x=\"{right}\" y=\"{HEIGHT}\" dy=\"-16\" text-anchor=\"end\">{x}</text>\n"
    );
    // Writing to a string cannot fail.
    let (mut across, mut down) = (left, 38);
    for (series, colour) in series.iter().zip(COLOURS) {
        let name = series.name;
        // A letter is some 7 wide.
        let width = 7.0 * name.chars().count() as f64 + 32.0;
        if across > left && across + width > right {
            (across, down) = (left, down + 18);
        }
        let _ = writeln!(
            svg,
            "<text x=\"{across}\" y=\"{down}\" fill=\"{colour}\">\u{25cf} {name}</text>"
        );
        across += width;
        for (n, value) in series.values.iter().enumerate() {
            let (x, y) = at(n, *value);
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series<'static> {
        Series {
            name: "s",
            values: values.to_vec(),
        }
    }

    #[test]
    fn the_largest_value_is_at_the_top_and_none_is_at_the_bottom() {
        let svg = plot("t", "n", "ms", &[series(&[4.0, 0.0]), series(&[2.0, 1.0])]);
        assert!(svg.contains("cx=\"48.0\" cy=\"96.0\""), "{svg}");
        assert!(svg.contains("cx=\"592.0\" cy=\"360.0\""), "{svg}");
        assert!(svg.contains("cx=\"48.0\" cy=\"228.0\""), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 4);
    }

    #[test]
    fn every_series_has_its_colour_and_its_name_a_place() {
        let name = "shoal serve, reuse 128";
        let all: Vec<Series<'_>> = (0..COLOURS.len())
            .map(|_| Series {
                name,
                ..series(&[1.0])
            })
            .collect();
        let svg = plot("t", "n", "ms", &all);
        for colour in COLOURS {
            assert_eq!(svg.matches(colour).count(), 2, "{colour}");
        }
        for down in ["38", "56", "74"] {
            assert_eq!(
                svg.matches(&format!("y=\"{down}\" fill")).count(),
                2,
                "{svg}"
            );
        }
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        let svg = plot("t", "n", "ms", &[series(&[]), series(&[])]);
        assert_eq!(svg.matches("<circle").count(), 0);
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
