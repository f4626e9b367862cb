//! The little Markdown that the contract and the problems are written in: paragraphs, headings, tables, lists, `code`.
//! Text becomes values, never markup: the templates write the tags.

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    Text(String),
    Code(String),
}

pub type Line = Vec<Span>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    Heading(Line),
    Paragraph(Line),
    Table { head: Vec<Line>, rows: Vec<Vec<Line>> },
    List(Vec<Line>),
}

/// Text with `code` in it.
pub fn line(text: &str) -> Line {
    let whole = text.matches('`').count().is_multiple_of(2);
    let spans = text.split('`').enumerate().map(|(place, part)| match place % 2 {
        1 if whole => Span::Code(part.to_owned()),
        _ => Span::Text(part.to_owned()),
    });
    spans.filter(|span| !matches!(span, Span::Text(text) if text.is_empty())).collect()
}

/// Paragraphs and the like, with an empty line between each two.
pub fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.split(|line| line.is_empty()).filter(|lines| !lines.is_empty()).flat_map(block).collect()
}

fn block(lines: &[&str]) -> Vec<Block> {
    if let Some(heading) = lines[0].strip_prefix("## ") {
        let mut blocks = vec![Block::Heading(line(heading))];
        if lines.len() > 1 {
            blocks.extend(block(&lines[1..]));
        }
        return blocks;
    }
    if lines.iter().all(|line| line.starts_with('|')) {
        return vec![table(lines)];
    }
    if lines[0].starts_with("- ") {
        // A line that does not begin an item goes on with the one before.
        let text = lines.join(" ");
        return vec![Block::List(text[2..].split(" - ").map(line).collect())];
    }
    vec![Block::Paragraph(line(&lines.join(" ")))]
}

fn table(lines: &[&str]) -> Block {
    let cells = |text: &&str| text.trim_matches('|').split('|').map(|cell| line(cell.trim())).collect();
    let is_row = |text: &&&str| !text.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '));
    let mut rows: Vec<Vec<Line>> = lines.iter().filter(is_row).map(cells).collect();
    let head = if rows.is_empty() { Vec::new() } else { rows.remove(0) };
    Block::Table { head, rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Span {
        Span::Text(text.to_owned())
    }

    fn code(text: &str) -> Span {
        Span::Code(text.to_owned())
    }

    #[test]
    fn code_stands_apart_and_a_lone_backtick_is_text() {
        assert_eq!(line("a `b` c"), [text("a "), code("b"), text(" c")]);
        assert_eq!(line("`b`"), [code("b")]);
        assert_eq!(line("it`s"), [text("it"), text("s")]);
    }

    #[test]
    fn blocks_are_told_apart() {
        let read =
            blocks("One\ntwo.\n\n## Head\nText.\n\n| a | b |\n|---|---|\n| `x` | <b> |\n\n- one\n- two\n");
        let expected = [
            Block::Paragraph(vec![text("One two.")]),
            Block::Heading(vec![text("Head")]),
            Block::Paragraph(vec![text("Text.")]),
            Block::Table {
                head: vec![vec![text("a")], vec![text("b")]],
                rows: vec![vec![vec![code("x")], vec![text("<b>")]]],
            },
            Block::List(vec![vec![text("one")], vec![text("two")]]),
        ];
        assert_eq!(read, expected);
    }
}
