//! From the recognition model's output to text: at each step the likeliest class; equal neighbours are one character, class 0
//! is the blank between characters (CTC greedy decoding). No language model, no spelling.

/// The characters a recognition model knows, in its order.
#[derive(Clone, Debug)]
pub struct Labels {
    characters: Vec<String>,
}

/// A list of characters that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LabelError {
    /// Not text.
    #[error("the list of characters is not utf-8: bad byte at {0}")]
    NotUtf8(usize),
    /// No characters in it.
    #[error("the list of characters is empty")]
    Empty,
}

/// Scores that do not belong to these labels.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{values} scores in steps of {classes} do not fit {characters} characters: expected steps of {expected}")]
pub struct ScoreError {
    values: usize,
    classes: usize,
    characters: usize,
    expected: usize,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its characters.
    pub text: String,
    /// Mean of the characters' scores, 0 to 1; 0 for no characters.
    pub score: f64,
}

impl Labels {
    /// One character per line of UTF-8 text.
    pub fn parse(file: &[u8]) -> Result<Self, LabelError> {
        let text = std::str::from_utf8(file).map_err(|error| LabelError::NotUtf8(error.valid_up_to()))?;
        let characters: Vec<String> = text.lines().map(str::to_owned).collect();
        if characters.is_empty() { Err(LabelError::Empty) } else { Ok(Self { characters }) }
    }

    /// Classes of a model with these labels: the blank comes before them, the space behind.
    pub fn classes(&self) -> usize {
        self.characters.len() + 2
    }

    fn character(&self, class: usize) -> &str {
        self.characters.get(class.wrapping_sub(1)).map_or(" ", String::as_str)
    }

    /// Reads `scores`, steps from left to right with `classes` values each.
    pub fn read(&self, scores: &[f32], classes: usize) -> Result<Reading, ScoreError> {
        if classes != self.classes() || !scores.len().is_multiple_of(classes) {
            let expected = self.classes();
            return Err(ScoreError { values: scores.len(), classes, characters: self.characters.len(), expected });
        }
        let (mut text, mut sum, mut count, mut previous) = (String::new(), 0.0, 0u32, BLANK);
        for step in scores.chunks_exact(classes) {
            let (class, score) = likeliest(step);
            if class != previous && class != BLANK {
                text.push_str(self.character(class));
                sum += f64::from(score);
                count += 1;
            }
            previous = class;
        }
        Ok(Reading { text, score: if count == 0 { 0.0 } else { sum / f64::from(count) } })
    }
}

const BLANK: usize = 0;

/// The first of the largest values, and it.
fn likeliest(scores: &[f32]) -> (usize, f32) {
    let mut best = (BLANK, f32::NEG_INFINITY);
    for (class, score) in scores.iter().enumerate() {
        if *score > best.1 {
            best = (class, *score);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(classes: &[usize], of: usize) -> Vec<f32> {
        classes.iter().flat_map(|class| (0..of).map(move |i| if i == *class { 0.8 } else { 0.05 })).collect()
    }

    #[test]
    fn repeats_merge_and_blanks_separate() {
        let labels = Labels::parse("a\nb\nß".as_bytes()).unwrap();
        let read = labels.read(&scores(&[0, 1, 1, 0, 1, 2, 4, 3, 0], 5), 5).unwrap();
        assert_eq!(read.text, "aab ß");
        assert!((read.score - 0.8).abs() < 1e-6);
    }

    #[test]
    fn nothing_read_scores_nothing() {
        let labels = Labels::parse(b"a\n").unwrap();
        assert_eq!(labels.read(&scores(&[0, 0], 3), 3), Ok(Reading { text: String::new(), score: 0.0 }));
        assert_eq!(labels.read(&[f32::NAN; 3], 3).unwrap().text, "");
    }

    #[test]
    fn another_models_scores_are_refused() {
        let labels = Labels::parse(b"a\nb\n").unwrap();
        let error = labels.read(&[0.0; 10], 5).unwrap_err();
        assert_eq!(error.to_string(), "10 scores in steps of 5 do not fit 2 characters: expected steps of 4");
        assert_eq!(Labels::parse(b"").unwrap_err(), LabelError::Empty);
        assert_eq!(Labels::parse(b"a\xff").unwrap_err(), LabelError::NotUtf8(1));
    }
}
