//! Which of a repository's GGUF files is meant: quants read out of file names, shards kept together.

use super::error::{HubError, Result};

/// The quants to take when none is named, best first: what this runtime is fastest on, then the denser ones.
pub const TERNARY_ORDER: [&str; 8] = ["TQ2_0", "Q2_0", "PQ2_0", "Q2_0_G128", "I2_S", "TQ1_0", "PTQ1_0", "Q1_0"];

/// Names of quants that appear in file names, so that `list` can show them; longer ones first.
const KNOWN: [&str; 34] = [
    "Q2_0_G128",
    "PTQ1_0",
    "PQ2_0",
    "TQ1_0",
    "TQ2_0",
    "Q1_58",
    "IQ2_XXS",
    "IQ3_XXS",
    "IQ1_BN",
    "IQ2_BN",
    "IQ4_NL",
    "IQ4_XS",
    "IQ1_S",
    "IQ1_M",
    "IQ2_S",
    "IQ2_M",
    "IQ3_S",
    "IQ3_M",
    "I2_S",
    "TL1",
    "TL2",
    "Q1_0",
    "Q2_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q4_0",
    "Q5_0",
    "Q8_0",
    "BF16",
    "F16",
    "F32",
];

/// One model of a repository: its file, or its shards in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// File names in the repository, the first shard first.
    pub files: Vec<String>,
}

/// Picks the model meant by `quant` (or, without one, the first of [`TERNARY_ORDER`], or the only one there is) among
/// `files`, the names a repository lists. `repo` is for messages.
pub fn choose(repo: &str, files: &[String], quant: Option<&str>) -> Result<Choice> {
    let models = models(files);
    if models.is_empty() {
        return Err(HubError::NoGguf { repo: repo.to_owned() });
    }
    let available = || models.iter().map(|model| model.files[0].clone()).collect::<Vec<_>>();
    let choice = match quant {
        Some(quant) => find(&models, quant).ok_or_else(|| HubError::NoSuchQuant {
            repo: repo.to_owned(),
            wanted: format!("file with {quant:?} in its name"),
            available: available(),
        }),
        None => TERNARY_ORDER
            .iter()
            .find_map(|quant| find(&models, quant))
            .or(if models.len() == 1 { models.first() } else { None })
            .ok_or_else(|| HubError::Ambiguous { repo: repo.to_owned(), available: available() }),
    }?;
    complete(repo, choice)
}

/// Picks the model that the file `name` belongs to, its other shards included.
pub fn choose_file(repo: &str, files: &[String], name: &str) -> Result<Choice> {
    let models = models(files);
    let choice = models.iter().find(|model| model.files.iter().any(|file| file == name)).ok_or_else(|| {
        HubError::NoSuchQuant {
            repo: repo.to_owned(),
            wanted: format!("GGUF file {name:?}"),
            available: models.iter().map(|model| model.files[0].clone()).collect(),
        }
    })?;
    complete(repo, choice)
}

/// The quant that a file name names, in upper case; `None` when it names none.
pub fn quant_of(file: &str) -> Option<&'static str> {
    KNOWN
        .into_iter()
        .find(|quant| names_quant(file, quant, Bound::Exact))
        .or_else(|| KNOWN.into_iter().find(|quant| names_quant(file, quant, Bound::Word)))
}

/// The parts of `X-00001-of-00003.gguf`: stem, number from 1, count.
pub fn shard_of(file: &str) -> Option<(&str, usize, usize)> {
    let rest = file.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five_digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !five_digits(number) || !five_digits(count) {
        return None;
    }
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    (1..=count).contains(&number).then_some((stem, number, count))
}

/// The GGUF models among `files`, shards gathered; vision projectors and importance matrices are not models.
pub fn models(files: &[String]) -> Vec<Choice> {
    let is_model = |file: &&String| {
        let lower = file.to_ascii_lowercase();
        lower.ends_with(".gguf") && !lower.contains("mmproj") && !lower.contains("imatrix")
    };
    let mut names: Vec<&String> = files.iter().filter(is_model).collect();
    names.sort();
    names.dedup();
    let mut models: Vec<Choice> = Vec::new();
    for name in names {
        // Sorted, the shards of one model stand side by side.
        let previous = models.last_mut().filter(|model| match (shard_of(&model.files[0]), shard_of(name)) {
            (Some((stem, _, count)), Some((other_stem, _, other_count))) => (stem, count) == (other_stem, other_count),
            _ => false,
        });
        match previous {
            Some(model) => model.files.push(name.clone()),
            None => models.push(Choice { files: vec![name.clone()] }),
        }
    }
    models
}

impl Choice {
    /// Whether every shard that the first one's name promises is there.
    pub fn is_complete(&self) -> bool {
        shard_of(&self.files[0]).is_none_or(|(_, _, count)| count == self.files.len())
    }
}

fn complete(repo: &str, choice: &Choice) -> Result<Choice> {
    if choice.is_complete() {
        return Ok(choice.clone());
    }
    Err(HubError::MissingShards {
        repo: repo.to_owned(),
        name: choice.files[0].clone(),
        expected: shard_of(&choice.files[0]).map_or(1, |(_, _, count)| count),
        found: choice.files.len(),
    })
}

/// The first model whose file name names `quant`, an exact mention before one that goes on (`Q2_0` in `Q2_0_g128`).
pub(super) fn find<'a>(models: &'a [Choice], quant: &str) -> Option<&'a Choice> {
    [Bound::Exact, Bound::Word]
        .into_iter()
        .find_map(|bound| models.iter().find(|model| names_quant(&model.files[0], quant, bound)))
}

#[derive(Clone, Copy, PartialEq)]
enum Bound {
    /// Stands alone between separators.
    Exact,
    /// May be followed by `_something`.
    Word,
}

/// Whether `file` holds `quant`, in any case, not as the tail of another word (`Q2_0` is not in `TQ2_0`).
fn names_quant(file: &str, quant: &str, bound: Bound) -> bool {
    let (file, quant) = (file.to_ascii_lowercase(), quant.to_ascii_lowercase());
    file.match_indices(&quant).any(|(at, _)| {
        let before = file[..at].chars().next_back();
        let after = file[at + quant.len()..].chars().next();
        before.is_none_or(|c| !c.is_alphanumeric())
            && after.is_none_or(|c| !c.is_alphanumeric() && (bound == Bound::Word || c != '_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str]) -> Vec<String> {
        files.iter().map(|file| (*file).to_owned()).collect()
    }

    #[test]
    fn a_named_quant_is_found_in_any_case_and_never_inside_another() {
        let files = names(&["m-PQ2_0.gguf", "m-Q2_0_g128.gguf", "m-TQ2_0.gguf", "m-q2_0.gguf", "README.md"]);
        let pick = |quant| choose("a/b", &files, Some(quant)).unwrap().files[0].clone();
        assert_eq!(pick("Q2_0"), "m-q2_0.gguf");
        assert_eq!(pick("tq2_0"), "m-TQ2_0.gguf");
        assert_eq!(pick("pq2_0"), "m-PQ2_0.gguf");
        assert_eq!(pick("q2_0_G128"), "m-Q2_0_g128.gguf");
        let error = choose("a/b", &files, Some("Q8_0")).unwrap_err();
        assert!(error.to_string().contains("m-TQ2_0.gguf"), "{error}");
    }

    #[test]
    fn a_quant_that_goes_on_is_taken_when_no_exact_one_is_there() {
        let files = names(&["m-F16.gguf", "m-Q2_0_g128.gguf"]);
        assert_eq!(choose("a/b", &files, Some("Q2_0")).unwrap().files, ["m-Q2_0_g128.gguf"]);
    }

    #[test]
    fn without_a_quant_ternary_files_come_first() {
        let files = names(&["m-F16.gguf", "m-Q4_K_M.gguf", "m-TQ1_0.gguf", "m-TQ2_0.gguf", "mmproj-m-TQ2_0.gguf"]);
        assert_eq!(choose("a/b", &files, None).unwrap().files, ["m-TQ2_0.gguf"]);
        assert_eq!(choose("a/b", &names(&["only.gguf"]), None).unwrap().files, ["only.gguf"]);
        assert!(matches!(choose("a/b", &names(&["m-F16.gguf", "m-Q8_0.gguf"]), None), Err(HubError::Ambiguous { .. })));
        assert!(matches!(choose("a/b", &names(&["README.md"]), None), Err(HubError::NoGguf { .. })));
    }

    #[test]
    fn shards_come_together_in_order_or_not_at_all() {
        let files = names(&["q/m-TQ2_0-00002-of-00002.gguf", "q/m-TQ2_0-00001-of-00002.gguf", "m-F16.gguf"]);
        let expected = ["q/m-TQ2_0-00001-of-00002.gguf", "q/m-TQ2_0-00002-of-00002.gguf"];
        assert_eq!(choose("a/b", &files, None).unwrap().files, expected);
        assert_eq!(choose_file("a/b", &files, "q/m-TQ2_0-00002-of-00002.gguf").unwrap().files, expected);
        assert!(matches!(choose("a/b", &files[..1], None), Err(HubError::MissingShards { found: 1, .. })));
        assert_eq!(shard_of("m-00003-of-00002.gguf"), None);
        assert_eq!(shard_of("m-1-of-2.gguf"), None);
    }

    #[test]
    fn quants_are_read_from_file_names() {
        assert_eq!(quant_of("Falcon3-1B-TQ2_0.gguf"), Some("TQ2_0"));
        assert_eq!(quant_of("ggml-model-i2_s.gguf"), Some("I2_S"));
        assert_eq!(quant_of("m.Q4_K_M.gguf"), Some("Q4_K"));
        assert_eq!(quant_of("model-f16.gguf"), Some("F16"));
        assert_eq!(quant_of("model.gguf"), None);
    }
}
