//! What belongs to bench, perplexity and tokenize only.

use super::{BENCH, Flag, Group, PERPLEXITY, TOKENIZE, nothing, refused, refused_but, there};

const TASKS: &str = "tests of knowledge are not run here; `sterna perplexity` measures texts";
const NO_TASKS: &str = "the test that it belongs to is not there";

pub const GROUP: Group = Group { title: "Measuring", flags: FLAGS };

const FLAGS: &[Flag] = &[
    there(BENCH, &["-p", "--n-prompt"], "N", ""),
    there(BENCH, &["-n", "--n-gen"], "N", ""),
    there(BENCH, &["-pg", "--prompt-gen"], "PP,TG", ""),
    there(BENCH, &["-d", "--n-depth"], "N", "what comes before is read anew for each run, and is not timed"),
    there(BENCH, &["-r", "--repetitions"], "N", ""),
    there(BENCH, &["--delay"], "SECONDS", ""),
    there(BENCH, &["-o", "--output"], "FORMAT", "md, csv, json and jsonl; sql is not there"),
    there(BENCH, &["-oe", "--output-err"], "FORMAT", "md, csv, json and jsonl; sql is not there"),
    there(BENCH, &["--progress"], "", ""),
    there(BENCH, &["--no-warmup"], "", ""),
    there(PERPLEXITY, &["--chunks"], "N", ""),
    there(PERPLEXITY, &["--kl-divergence"], "", ""),
    there(PERPLEXITY, &["--save-all-logits", "--kl-divergence-base"], "FNAME", ""),
    refused_but(
        PERPLEXITY,
        &["--ppl-stride"],
        "N",
        &["0"],
        "use --stride N, which scores every token once in windows that advance by N",
    ),
    refused_but(PERPLEXITY, &["--ppl-output-type"], "0|1", &["0"], "--json gives the numbers in another form"),
    refused(PERPLEXITY, &["--hellaswag"], "", TASKS),
    nothing(PERPLEXITY, &["--hellaswag-tasks"], "N", NO_TASKS),
    refused(PERPLEXITY, &["--winogrande"], "", TASKS),
    nothing(PERPLEXITY, &["--winogrande-tasks"], "N", NO_TASKS),
    refused(PERPLEXITY, &["--multiple-choice"], "", TASKS),
    nothing(PERPLEXITY, &["--multiple-choice-tasks"], "N", NO_TASKS),
    there(TOKENIZE, &["--stdin"], "", ""),
    there(TOKENIZE, &["--ids"], "", ""),
    there(TOKENIZE, &["--no-bos"], "", ""),
    there(TOKENIZE, &["--no-parse-special"], "", ""),
    there(TOKENIZE, &["--show-count"], "", ""),
];
