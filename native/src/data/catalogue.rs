//! The data sets that `sterna data` knows: where their files come from, and what must be in them.
//!
//! Checksums and sizes are of the content: of a `.gz` file, of what is in it. Mirrors compress the same content anew, and
//! the archive's own checksum says nothing about the data.

/// A data set.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct DataSet {
    /// What to type.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// The licence it was published under.
    pub licence: &'static str,
    /// Its files, as they are fetched.
    pub files: &'static [DataFile],
    /// Folders that are looked into besides the one of its name: how collections of data often call it.
    #[serde(skip)]
    pub folders: &'static [&'static str],
    /// Other sets of files that serve as well, by name.
    #[serde(skip)]
    pub instead: &'static [&'static [&'static str]],
}

/// One file of a data set.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct DataFile {
    /// Its name here. Ends in `.gz` where it is fetched and kept compressed.
    pub name: &'static str,
    /// Where it comes from.
    pub url: &'static str,
    /// Bytes of the (uncompressed) content.
    pub bytes: u64,
    /// Lower-case hex SHA-256 of the (uncompressed) content.
    pub sha256: &'static str,
    /// What it is called inside the ZIP archive that `url` names; `None` where `url` names the file itself.
    pub inside: Option<&'static str>,
}

impl DataSet {
    /// The data set of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CATALOGUE.iter().find(|set| set.name == name)
    }

    /// Bytes of content over all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

impl DataFile {
    /// The name without `.gz`.
    pub fn plain_name(&self) -> &'static str {
        self.name.strip_suffix(".gz").unwrap_or(self.name)
    }

    /// Whether it is fetched compressed.
    pub fn is_compressed(&self) -> bool {
        self.name.ends_with(".gz")
    }
}

/// Every data set, by name.
pub const CATALOGUE: &[DataSet] = &[
    DataSet {
        name: "fashion-mnist",
        about: "70,000 pictures of clothes in ten kinds, 28 x 28 grey",
        licence: "MIT",
        files: &[
            DataFile {
                name: "train-images-idx3-ubyte.gz",
                url: "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/train-images-idx3-ubyte.gz",
                bytes: 47_040_016,
                sha256: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                inside: None,
            },
            DataFile {
                name: "train-labels-idx1-ubyte.gz",
                url: "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/train-labels-idx1-ubyte.gz",
                bytes: 60_008,
                sha256: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                inside: None,
            },
            DataFile {
                name: "t10k-images-idx3-ubyte.gz",
                url: "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/t10k-images-idx3-ubyte.gz",
                bytes: 7_840_016,
                sha256: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                inside: None,
            },
            DataFile {
                name: "t10k-labels-idx1-ubyte.gz",
                url: "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/t10k-labels-idx1-ubyte.gz",
                bytes: 10_008,
                sha256: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                inside: None,
            },
        ],
        folders: &[],
        instead: &[],
    },
    DataSet {
        name: "gpt2-tokenizer",
        about: "GPT-2's vocabulary and merges, 50,257 tokens",
        licence: "MIT",
        files: &[
            DataFile {
                name: "encoder.json",
                url: "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json",
                bytes: 1_042_301,
                sha256: "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
                inside: None,
            },
            DataFile {
                name: "vocab.bpe",
                url: "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
                bytes: 456_318,
                sha256: "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
                inside: None,
            },
        ],
        folders: &["gpt2"],
        instead: &[&["vocab.json", "merges.txt"], &["tokenizer.json"]],
    },
    DataSet {
        name: "mnist",
        about: "70,000 handwritten digits, 28 x 28 grey",
        licence: "CC-BY-SA-3.0",
        files: &[
            DataFile {
                name: "train-images-idx3-ubyte.gz",
                url: "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
                bytes: 47_040_016,
                sha256: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                inside: None,
            },
            DataFile {
                name: "train-labels-idx1-ubyte.gz",
                url: "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
                bytes: 60_008,
                sha256: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                inside: None,
            },
            DataFile {
                name: "t10k-images-idx3-ubyte.gz",
                url: "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
                bytes: 7_840_016,
                sha256: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                inside: None,
            },
            DataFile {
                name: "t10k-labels-idx1-ubyte.gz",
                url: "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
                bytes: 10_008,
                sha256: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                inside: None,
            },
        ],
        folders: &[],
        instead: &[],
    },
    DataSet {
        name: "tinyshakespeare",
        about: "from Shakespeare's plays, 1.1 million characters",
        licence: "public domain",
        files: &[DataFile {
            name: "tinyshakespeare.txt",
            url: "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            bytes: 1_115_394,
            sha256: "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            inside: None,
        }],
        folders: &["text"],
        instead: &[&["input.txt"]],
    },
    DataSet {
        name: "wikitext-2",
        about: "articles of Wikipedia, the raw test split: the usual text for perplexity",
        licence: "CC-BY-SA-3.0",
        files: &[DataFile {
            name: "wikitext-2.test.raw",
            url: "https://huggingface.co/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip",
            bytes: 1_290_590,
            sha256: "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
            inside: Some("wikitext-2-raw/wiki.test.raw"),
        }],
        folders: &["text", "wikitext-2-raw"],
        instead: &[&["wiki.test.raw"]],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_unique_and_complete() {
        assert!(CATALOGUE.windows(2).all(|pair| pair[0].name < pair[1].name));
        for set in CATALOGUE {
            assert!(!set.files.is_empty() && !set.about.is_empty() && !set.licence.is_empty());
            for (i, file) in set.files.iter().enumerate() {
                assert!(file.url.starts_with("https://"), "{}", file.url);
                assert!(file.sha256.len() == 64 && file.sha256.bytes().all(|b| b"0123456789abcdef".contains(&b)));
                assert!(crate::hub::is_safe_file_name(file.name) && !file.name.contains('/'));
                assert!(set.files[..i].iter().all(|other| other.name != file.name));
            }
        }
        assert_eq!(DataSet::named("mnist").unwrap().bytes(), 54_950_048);
        assert!(DataSet::named("imagenet").is_none());
    }
}
