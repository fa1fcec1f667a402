//! The checklist's answers: one line per item, with pass, FAIL, or skipped and why.

use super::super::render::text;
use super::super::terminal::Terminal;
use serde::Serialize;

/// What is checked. The order is that of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Item {
    Component,
    Hooks,
    Imports,
    Describe,
    Load,
    Process,
    Outputs,
    Result,
    Idempotent,
    PublishNext,
    Store,
}

impl Item {
    /// What a guest must do.
    pub(super) fn requirement(self) -> &'static str {
        match self {
            Self::Component => "is a component",
            Self::Hooks => "exports the three hooks with the contract's types",
            Self::Imports => "imports only the contract, wasi:nn and standard WASI",
            Self::Describe => "describes itself: schema version, name, version, functions with JSON Schemas",
            Self::Load => "load-pipeline succeeds",
            Self::Process => "process runs on a sample within its limits, or answers a typed error",
            Self::Outputs => "outputs are named legally and stay under the task's prefix",
            Self::Result => "the result fits the schema that the guest describes",
            Self::Idempotent => "the same task twice gives the same outputs and the same children",
            Self::PublishNext => "publish-next writes nothing, answers the same again, and its children resolve",
            Self::Store => "a real run ends DONE in the task store, its files as the manifests say",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Hooks => "hooks",
            Self::Imports => "imports",
            Self::Describe => "describe",
            Self::Load => "load",
            Self::Process => "process",
            Self::Outputs => "outputs",
            Self::Result => "result",
            Self::Idempotent => "idempotent",
            Self::PublishNext => "publish-next",
            Self::Store => "store",
        }
    }
}

/// How an item came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Pass,
    Fail,
    Skipped,
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    /// The step; none for the pipeline as a whole.
    pub step: Option<String>,
    pub item: Item,
    pub verdict: Verdict,
    pub requirement: &'static str,
    /// What was seen, or why it was skipped.
    pub why: String,
}

/// All lines.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub lines: Vec<Line>,
}

impl Report {
    pub(super) fn add(&mut self, step: Option<&str>, item: Item, verdict: Verdict, why: impl Into<String>) {
        let why = text::plain(&why.into());
        self.lines.push(Line { step: step.map(str::to_owned), item, verdict, requirement: item.requirement(), why });
    }

    /// How many came out so.
    pub(super) fn count(&self, verdict: Verdict) -> u64 {
        self.lines.iter().filter(|line| line.verdict == verdict).count() as u64
    }

    /// Whether an item of a step has an answer already.
    pub(super) fn has(&self, step: Option<&str>, item: Item) -> bool {
        self.lines.iter().any(|line| line.step.as_deref() == step && line.item == item)
    }

    /// Skips those of `items` that have no answer yet.
    pub(super) fn skip(&mut self, step: &str, items: &[Item], why: &str) {
        for item in items.iter().filter(|item| !self.has(Some(step), **item)).copied().collect::<Vec<_>>() {
            self.add(Some(step), item, Verdict::Skipped, why);
        }
    }

    /// Lines of `steps` in their order, the pipeline's own last.
    pub(super) fn sort(&mut self, steps: &[String]) {
        let place = |line: &Line| line.step.as_ref().map_or(usize::MAX, |s| steps.iter().position(|known| known == s).unwrap_or(0));
        self.lines.sort_by_key(|line| (place(line), line.item));
    }

    /// The text for people.
    pub(super) fn render(&self, terminal: Terminal) -> String {
        let mut out = String::new();
        let mut before = None;
        for line in &self.lines {
            if before != Some(&line.step) {
                let head = line.step.as_ref().map_or("pipeline".to_owned(), |step| format!("step {step}"));
                out.push_str(&format!("{}{head}\n", if before.is_some() { "\n" } else { "" }));
                before = Some(&line.step);
            }
            let (word, colour) = match line.verdict {
                Verdict::Pass => ("pass", "32"),
                Verdict::Fail => ("FAIL", "1;31"),
                Verdict::Skipped => ("skipped", "33"),
            };
            let word = if terminal.colours { format!("\u{1b}[{colour}m{word:<7}\u{1b}[0m") } else { format!("{word:<7}") };
            out.push_str(&format!("  {word}  {:<12}  {}\n", line.item.name(), line.requirement));
            if !line.why.is_empty() {
                for row in line.why.lines() {
                    out.push_str(&format!("{:25}{row}\n", ""));
                }
            }
        }
        let [passed, failed, skipped] = [Verdict::Pass, Verdict::Fail, Verdict::Skipped].map(|v| self.count(v));
        out.push_str(&format!("\n{passed} passed, {failed} failed, {skipped} skipped\n"));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_by_step_and_item() {
        let mut report = Report::default();
        report.add(None, Item::Store, Verdict::Skipped, "no sample");
        report.add(Some("b"), Item::Component, Verdict::Pass, "");
        report.add(Some("a"), Item::Load, Verdict::Fail, "bad\u{1b}[2J");
        report.add(Some("a"), Item::Component, Verdict::Pass, "");
        report.skip("a", &[Item::Load, Item::Process], "not loaded");
        report.sort(&["a".into(), "b".into()]);
        let text = report.render(Terminal { shows_results: false, shows_progress: false, colours: false });
        let heads: Vec<&str> = text.lines().filter(|l| !l.starts_with(' ') && !l.is_empty()).collect();
        assert_eq!(heads, ["step a", "step b", "pipeline", "2 passed, 1 failed, 2 skipped"]);
        assert!(text.contains("FAIL     load") && !text.contains('\u{1b}'), "{text}");
    }
}
