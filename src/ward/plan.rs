//! A plan, and what became of it, for people: as text, as HTML, and as a picture.

use std::fmt::{self, Write};

use super::report::{html_table, text_lines};
use crate::partition::done::{Partitioning, Place};
use crate::partition::plan::{Balance, Piece, Plan, Rule};
use crate::partition::profile::shown;
use crate::units::{Bytes, shortened};

/// Pieces that are listed, half of them from each end.
const LISTED: usize = 40;
/// Characters of a name, and of a condition, in a line.
const NAME: usize = 24;
const CONDITION: usize = 72;
/// Characters of the longest bar.
const BAR: usize = 40;
/// Bars in a picture, at most.
const BARS: usize = 320;

impl Plan {
    /// Name and value of every line that people read before the pieces.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let balance = self.balance();
        let by: Vec<String> = self
            .cuts
            .iter()
            .map(|cut| {
                let how = match &cut.rule {
                    Rule::Time { step, zone: None, .. } => format!("by time, every {}", step.name()),
                    Rule::Time {
                        step,
                        zone: Some(zone),
                        ..
                    } => {
                        format!("by time, every {} in {zone}", step.name())
                    }
                    Rule::Range { .. } => "by range".to_owned(),
                    Rule::Hash { pieces } => format!("by hash into {pieces}"),
                    Rule::Value { .. } => "by value".to_owned(),
                };
                format!("{} {how}", cut.column)
            })
            .collect();
        let mut lines = vec![
            ("source", shortened(&self.source, CONDITION)),
            ("cut", by.join(", then ")),
            ("rows", self.rows.to_string()),
            ("bytes", format!("about {} in memory", self.bytes())),
            (
                "pieces",
                format!(
                    "{} with rows, of {} that can have some",
                    balance.pieces,
                    self.pieces.len()
                ),
            ),
            (
                "balance",
                format!(
                    "{}: {} to {} rows, {:.0} on the average, variation {:.2}",
                    balance.verdict(),
                    balance.least,
                    balance.most,
                    balance.mean,
                    balance.variation
                ),
            ),
        ];
        lines.extend(self.heavy.iter().take(5).map(|heavy| {
            let text = format!(
                "{} = {} has about {:.1} % of the rows, and no cut splits one value",
                heavy.column,
                shown(&heavy.value),
                heavy.share * 100.0
            );
            ("heavy", text)
        }));
        lines
    }

    /// The places of the pieces that are listed, and how many are left out in their middle. Pieces without rows are not.
    fn listed(&self) -> (Vec<usize>, usize) {
        let full: Vec<usize> = (0..self.pieces.len())
            .filter(|place| self.pieces[*place].rows > 0)
            .collect();
        let left_out = full.len().saturating_sub(LISTED);
        if left_out == 0 {
            return (full, 0);
        }
        let ends = full[..LISTED / 2].iter().chain(&full[full.len() - LISTED / 2..]);
        (ends.copied().collect(), left_out)
    }

    /// The plan as a small HTML table, for notebooks.
    pub fn to_html(&self) -> String {
        let (listed, left_out) = self.listed();
        let mut lines = self.lines();
        let texts: Vec<(String, String)> = listed
            .iter()
            .map(|place| {
                let piece = &self.pieces[*place];
                let condition = shortened(&piece.condition, CONDITION);
                let text = format!("{} rows, {}, {condition}", piece.rows, piece.bytes);
                (shortened(&piece.name, NAME), text)
            })
            .collect();
        for (index, (name, text)) in texts.iter().enumerate() {
            if left_out > 0 && index == LISTED / 2 {
                lines.push(("", format!("and {left_out} more")));
            }
            lines.push(("piece", format!("{name}: {text}")));
        }
        html_table("duckward plan", lines)
    }

    /// The rows of each piece as bars, one line each, for terminals.
    pub fn bars(&self) -> String {
        let most = self.balance().most.max(1);
        let (listed, left_out) = self.listed();
        let mut text = String::new();
        for (index, place) in listed.iter().enumerate() {
            if left_out > 0 && index == LISTED / 2 {
                // Writing to a String does not fail.
                let _ = writeln!(text, "{:>NAME$}  and {left_out} more", "...");
            }
            let piece = &self.pieces[*place];
            let length = (piece.rows as f64 / most as f64 * BAR as f64).ceil() as usize;
            let name = shortened(&piece.name, NAME);
            let _ = writeln!(
                text,
                "{name:>NAME$}  {:<BAR$}  {}",
                "█".repeat(length),
                piece.rows
            );
        }
        text.pop();
        text
    }

    /// The rows of each piece as a picture: a bar each, the average as a line; of more pieces than there is room for, neighbours
    /// have a bar together, as high as the largest. SVG, 720 by 260 pixels.
    pub fn to_svg(&self) -> String {
        const WIDTH: f64 = 720.0;
        const HEIGHT: f64 = 260.0;
        const LEFT: f64 = 64.0;
        const BOTTOM: f64 = 40.0;
        const TOP: f64 = 24.0;
        let full: Vec<_> = self.pieces.iter().filter(|piece| piece.rows > 0).collect();
        let balance = self.balance();
        let most = balance.most.max(1) as f64;
        let (plot_width, plot_height) = (WIDTH - LEFT - 8.0, HEIGHT - BOTTOM - TOP);
        let together = full.len().div_ceil(BARS).max(1);
        let bars: Vec<_> = full.chunks(together).collect();
        let step = plot_width / bars.len().max(1) as f64;
        let largest = match together {
            1 => String::new(),
            many => format!("; each bar is the largest of {many}"),
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\
             <text x=\"{LEFT}\" y=\"15\" fill=\"#222222\">rows of {} pieces, variation {:.2} ({}){largest}</text>",
            balance.pieces,
            balance.variation,
            balance.verdict()
        );
        // Names where there is room for them.
        let every = (bars.len() as f64 / 12.0).ceil().max(1.0) as usize;
        for (index, pieces) in bars.iter().enumerate() {
            let (Some(piece), Some(last)) = (pieces.first(), pieces.last()) else {
                continue;
            };
            let rows = pieces.iter().map(|piece| piece.rows).max().unwrap_or(0);
            let height = rows as f64 / most * plot_height;
            let name = |piece: &Piece| escaped(&shortened(&piece.name, NAME));
            let title = match together {
                1 => format!("{}: {rows} rows", name(piece)),
                _ => format!("{} to {}: up to {rows} rows", name(piece), name(last)),
            };
            let x = LEFT + index as f64 * step;
            let y = TOP + plot_height - height;
            let _ = write!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"#3b7dd8\">\
                 <title>{title}</title></rect>",
                (step * 0.85).max(0.5)
            );
            // A name that begins near the right edge would be cut off.
            if index % every == 0 && x < WIDTH - 60.0 {
                let _ = write!(
                    svg,
                    "<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"#222222\">{}</text>",
                    HEIGHT - BOTTOM + 16.0,
                    escaped(&shortened(&piece.name, 9))
                );
            }
        }
        let mean = TOP + plot_height - balance.mean / most * plot_height;
        for (y, value, dash) in [
            (TOP, balance.most as f64, ""),
            (mean, balance.mean, " stroke-dasharray=\"4 3\""),
            (TOP + plot_height, 0.0, ""),
        ] {
            let _ = write!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#888888\"{dash}/>",
                LEFT + plot_width
            );
            // The average's number would lie on the largest one's.
            if dash.is_empty() || y - TOP > 12.0 {
                let _ = write!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#222222\">{value:.0}</text>",
                    LEFT - 5.0,
                    y + 4.0
                );
            }
        }
        svg.push_str("</svg>");
        svg
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text_lines(f, self.lines())?;
        let (listed, left_out) = self.listed();
        for (index, place) in listed.iter().enumerate() {
            if left_out > 0 && index == LISTED / 2 {
                write!(f, "\n{:<NAME$} and {left_out} more", "...")?;
            }
            let piece = &self.pieces[*place];
            write!(
                f,
                "\n{:<NAME$} {:>12} rows {:>10}  {}",
                shortened(&piece.name, NAME),
                piece.rows,
                piece.bytes.to_string(),
                shortened(&piece.condition, CONDITION)
            )?;
        }
        Ok(())
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

impl Partitioning {
    /// Name and value of every line that people read.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let manifest = &self.manifest;
        let files = || manifest.pieces.iter().flat_map(|piece| &piece.files);
        let balance = Balance::of(manifest.pieces.iter().map(|piece| piece.rows));
        let mut lines = vec![
            ("into", self.place.to_string()),
            ("rows", manifest.rows().to_string()),
            ("pieces", manifest.pieces.len().to_string()),
        ];
        match &self.place {
            // A piece is a table.
            Place::Tables(_) => {}
            Place::Directory(_) => lines.push((
                "files",
                format!(
                    "{} of {}",
                    files().count(),
                    Bytes(files().map(|file| file.bytes).sum())
                ),
            )),
        }
        lines.push((
            "balance",
            format!(
                "{}: {} to {} rows, variation {:.2}",
                balance.verdict(),
                balance.least,
                balance.most,
                balance.variation
            ),
        ));
        if self.resumed > 0 {
            let text = format!("{} shares of the source had been written before", self.resumed);
            lines.push(("resumed", text));
        }
        // One that was read from its place has not been compared now.
        if let Some(validation) = &self.validation {
            let source = shortened(&validation.left, CONDITION);
            lines.push((
                "validated",
                format!("every row of {source} is there once, by counts and digests of each piece"),
            ));
        }
        lines
    }

    /// That as a small HTML table, for notebooks.
    pub fn to_html(&self) -> String {
        html_table("duckward partitioning", self.lines())
    }
}

impl fmt::Display for Partitioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text_lines(f, self.lines())
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::source::Source;
    use crate::engine::{Ask, Rows};
    use crate::error::Error;
    use crate::partition::plan::{Plan, Wish, plan};
    use crate::units::Bytes;

    /// A table of two columns; every piece has as many rows as its number says.
    struct Table;

    impl Ask<Error> for Table {
        fn pause(&mut self, _time: std::time::Duration) -> Result<(), Error> {
            Ok(())
        }

        fn ask(&mut self, sql: &str) -> Result<Rows, Error> {
            let row = |cells: &[&str]| cells.iter().map(|cell| Some((*cell).to_owned())).collect();
            Ok(if sql.starts_with("DESCRIBE") {
                vec![row(&["a<b", "INTEGER"])]
            } else if sql.starts_with("SELECT count(*)") {
                vec![row(&["5050"])]
            } else {
                (0..101)
                    .map(|piece: u32| row(&[&piece.to_string(), &piece.to_string()]))
                    .collect()
            })
        }
    }

    fn hashed() -> Plan {
        let wish = Wish {
            by: vec!["A<B".to_owned()],
            hash: Some(100),
            ..Wish::default()
        };
        plan(&mut Table, &Source::parse("t").unwrap(), &wish, Bytes::mib(512)).unwrap()
    }

    #[test]
    fn text_tells_the_balance_and_leaves_out_the_middle() {
        let text = hashed().to_string();
        assert!(text.contains("cut            a<b by hash into 100"), "{text}");
        assert!(text.contains("poor: 1 to 100 rows"), "{text}");
        assert!(text.contains("and 60 more"), "{text}");
        assert_eq!(text.lines().count(), 6 + 40 + 1);
        assert_eq!(hashed().bars().lines().count(), 41);
    }

    #[test]
    fn html_and_pictures_are_escaped() {
        for text in [hashed().to_html(), hashed().to_svg()] {
            assert!(!text.contains("a<b"), "{text}");
        }
    }
}
