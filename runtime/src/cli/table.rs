//! What commands print: a table for people, or the node's own JSON for programs.

use serde_json::Value;

/// How to print.
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// Print the node's answer as one line of JSON
    #[arg(long)]
    json: bool,
}

/// A column: its heading, and what of a row stands in it.
pub(super) type Column = (&'static str, fn(&Value) -> String);

impl Output {
    /// Prints rows under headings.
    pub(super) fn rows(&self, answer: &Value, rows: &[Value], columns: &[Column]) {
        if self.json {
            println!("{answer}");
            return;
        }
        print!("{}", table(rows, columns));
    }

    /// Prints one thing, or a line about it.
    pub(super) fn one(&self, answer: &Value, line: impl FnOnce(&Value) -> String) {
        if self.json {
            println!("{answer}");
            return;
        }
        println!("{}", line(answer));
    }
}

fn table(rows: &[Value], columns: &[Column]) -> String {
    let cells: Vec<Vec<String>> =
        std::iter::once(columns.iter().map(|(name, _)| name.to_string()).collect())
            .chain(
                rows.iter()
                    .map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()),
            )
            .collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).filter_map(width).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths);
        let padded: Vec<String> = padded
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    cells.iter().map(line).collect()
}

/// A field as text; empty where it is null.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Unix seconds as a date that anybody reads.
pub(super) fn time(value: &Value) -> String {
    let seconds = value
        .as_i64()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    seconds.map(|time| time.to_string()).unwrap_or_default()
}

/// A list of the answer.
pub(super) fn data(answer: &Value) -> &[Value] {
    answer["data"].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up_under_their_headings() {
        let rows = [
            json!({"a": "long name", "b": [1, 2]}),
            json!({"a": "x", "b": null}),
        ];
        let columns: [Column; 2] = [("A", |row| text(&row["a"])), ("B", |row| text(&row["b"]))];
        assert_eq!(table(&rows, &columns), "A          B\nlong name  1,2\nx\n");
    }

    #[test]
    fn a_time_is_a_date() {
        assert_eq!(time(&json!(1_700_000_000)), "2023-11-14T22:13:20Z");
        assert_eq!(time(&json!(null)), "");
    }
}
