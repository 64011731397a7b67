#!/usr/bin/env python3
"""Makes tests/golden/text: small tokenizers and what the `tokenizers` library makes of hard text.

Run offline and by hand: text_oracle.py [--out DIR]. Everything is seeded. Per style there is
STYLE.json (a tokenizer.json) and STYLE.cases.json (texts with ids, byte spans and decoded text);
fuzz.json holds random texts, and for each style a 32-bit FNV-1a of each text's ids.
Only characters that Unicode 14 knows are used.
"""

import argparse
import json
import random
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# Marks go with letters, and no longer with punctuation; they still may stand before a run of them.
QWEN35 = QWEN.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]+",
                                                         r"[^\s\p{L}\p{M}\p{N}]+")
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADERS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
           "<|eot_id|>"]

# What the small vocabularies are learned from: some of each script, so that merges cross bytes.
CORPUS = [
    "the quick brown fox jumps over the lazy dog, and then there is the rest of the story",
    "She said: \"I'll be there at 10:30, won't you?\" They've gone; we're late, it's 2024-05-17.",
    "def main(argv):\n    for i in range(100):\n        print(i, argv[i])\n    return 0\n",
    "Der schnelle braune Fuchs springt über den faulen Hund; größer, müßig, Straße, Übung",
    "El veloz murciélago hindú comía feliz cardillo y kiwi. La cigüeña tocaba el saxofón",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Привет, мир!",
    "敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园散步吧。你好世界",
    "いろはにほへと ちりぬるを わかよたれそ つねならむ。カタカナも少し。",
    "다람쥐 헌 쳇바퀴에 타고파. 안녕하세요 세계",
    "नमस्ते दुनिया, यह एक परीक्षण है। สวัสดีชาวโลก नमस्ते",
    "مرحبا بالعالم، هذا اختبار قصير. שלום עולם",
    "ﬁrst office ☕ 👍🏽 👩‍👩‍👧‍👦 🇫🇷 e\u0301te\u0301 n\u0303 A\u030a \u1100\u1161\u11a8",
    "a  b   c    d     e\t\tf\n\n\ng\r\nh        i",
    "aaaaaaaaaaaaaaaa bbbbbbbb abababab 0000000000 1234567890",
]

HARD = [
    "", " ", "  ", "\n", "\r\n", "\t", " \n ", "\n\n\n", "a", " a", "a ", "  a  b   c    ",
    "Hello, world!", "I'll DON'T we'Ve it'S 'tis 'RE x'\u017f y'D", "1 12 123 1234 12345 ١٢٣ Ⅷ ½",
    "x=1;\n\n  y = 2 ;\r\n\t\tz\r", "   \n   \n   x", "a\u00a0b\u2003c\u3000d\u180ee\u200bf\u0085g\u001ch",
    "e\u0301", "\u00e9", "e\u0301\u0323", "e\u0323\u0301", "\u1e69 s\u0323\u0307 s\u0307\u0323",
    "\u0301\u0301a", "A\u030a\u212b\u00c5", "\u1100\u1161\u11a8\uac01\uac00\u11a8", "\u0958\u0915\u093c",
    "\u2126\u212a\u1fef\u037e\u2000\u2001", "\uf900\ufa0e\U0002f800", "\ufb01 \ufdfa \u3392",
    "\U0001d15e \U0001d1bf \u0344 \u0f73", "q" + "\u0301\u0316" * 20, "👍", "👍🏽", "👩‍👩‍👧‍👦!", "🇫🇷🇩🇪",
    "a👍b 👍 👍👍\n👍", "☃︎ ☃️ ❤️‍🔥", "\U0001fae0\U0001f9cc", "你好，世界。123ABC漢字かなカナ", "한국어 텍스트",
    "नमस्ते दुनिया", "สวัสดีครับ", "مرحبا بالعالم", "שלום", "Привет, мир!", "ǅ ǈ ß ẞ İ ı ﬀ", "\u0000\u0001\u007f\u0080\u009f",
    "\ufeffx\ufffd\ufffe", "\U000e0041\U000f0000\U0010ffff", "a" * 300, "ab" * 150, " " * 200, "\n" * 50 + " " * 50 + "x",
    "aaaa aaaaa aaaaaa aaaaaaa", "0" * 31, "!!!???...\n\n", "_foo__bar_", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ①②③ ²³",
    "<|im_start|>user\nhi<|im_end|>\n", "a<|endoftext|>b", "<|endoftext|><|endoftext|>",
    " <|endoftext|> ", "<|endoftext|", "<|im_start|><|im_end", "<|begin_of_text|>x<|eot_id|>",
    "<think>\nx\n</think>\n\n", "<<|im_end|>>", "e\u0301<|im_end|>\u0301e",
    "word wordy sword word. word", "  [l]  [r]  [b]  x", "[l][r][b] [r] [b]\u3000[l]", "\u2028[b]\u2029\u0085[r]\n",
    "caf\u00e9 cafe\u0301 xcafe\u0301\u0301", "[r]  [sp]  [b]", "re\u0301sume\u0301 r\u00e9sum\u00e9",
]

# Combining marks: of scripts that spell vowels with them, decomposed, piled up, and where they have
# no letter before them.
MARKS = [
    "हिन्दी में लिखा है, क्षत्रिय ज्ञान। कि।", "ประเทศไทย น้ำ ที่นี่ ผู้ใหญ่ ๑๒๓", "ພາສາລາວ ຢູ່",
    "العَرَبِيَّةُ مُحَمَّدٌ ﷺ ١٢٣", "בְּרֵאשִׁית בָּרָא אֱלֹהִים",
    "Tie\u0302\u0301ng Vie\u0323\u0302t nga\u0300y",
    "தமிழ் மொழி க்ஷ", "བོད་སྐད་ བརྒྱད།", "မြန်မာဘာသာ ၁၂", "বাংলা ভাষা ড়", "ខ្មែរ ភាសា",
    "ܫܠܵܡܵܐ ދިވެހި",
    "Z\u0351\u036b\u0343a\u030b\u0301\u0337l\u0334\u0321g\u0315\u0328o\u0489\u0340",
    "o\u20dd x\u20e3 1\ufe0f\u20e3 #\ufe0f\u20e3 ❤\ufe0f",
    "\u0301", " \u0301", "\n\u0301\n", "!\u0301! !!\u0301\u0316a", "1\u03012\u0301",
    "\u093f\u0915 .\u093f", "a \u0323\u0301b",
    "'\u0301s it'\u0301s x's\u0301", "\u200d\u0301\u200ca\u200d\u0301",
    "\u3099か\u3099 \u309aハ\u309a", "\u00a0\u0301\u2028\u0301",
    "(\u0e31)\n\n \u0e31\r\n", "<think>\u0301</think>\u0301",
    "\U0001d165\U0001d16e \U0001e8d0\U0001e944x",
]

# Digits and punctuation, of ASCII and not; letters some of whose bytes are digits in the byte-level
# alphabet.
DIGITS = [
    "1", "12", "123", "1234", "1234567", "a1b22c333d4444", " 1 12  123", "3.14159, 1,000,000.00!",
    "١٢٣٤ १२३ ๑๒", "ⅧⅨ ½¾ ²³¹ ①② 一二三 𝟘𝟙 𒐀", "v1.2.3-rc4+b5", "!?", "a!?b", "$1+1=2|^~`<>",
    "«x» „y“ ‹z› …",
    "。、「」！？，", "¿qué? ¡sí!", "a_b-c—d–e", "؟،؛ ।॥ ៕", "§¶†‡•‰ ©®™ °±",
    "\u166d\U000111c9\u061d\u1b7d\u2e52", "...  ...\n...",
    "ò ó ù ü ý þ ¼ Ḳ Ἶ 漢字 𐒲", "x'\u00b2s'll 'll2", " !1 ! 1", "0xDEADBEEF 1e-9 10% #1 @2",
    "(1)[2]{3}", "\u0301!\u0301 1\u0301",
    "1<|im_end|>2!<|endoftext|>!3",
]


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex, trim_offsets=False)


def split_and_bytes(pattern):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated", invert=False), byte_level()])


def train(tok, vocab, corpus=tuple(CORPUS)):
    trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, min_frequency=1,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(corpus * 2, trainer)
    tok.decoder = decoders.ByteLevel()


def special(text, **how):
    return AddedToken(text, special=True, normalized=False, **how)


def plain(text, **how):
    return AddedToken(text, special=False, **how)


def gpt2():
    """ByteLevel with its own pattern; the one special token lies inside the vocabulary."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = byte_level(regex=True)
    train(tok, 700)
    model = json.loads(tok.to_str())
    model["model"]["vocab"]["<|endoftext|>"] = 700
    model["model"]["merges"] = [" ".join(m) for m in model["model"]["merges"]]
    tok = Tokenizer.from_str(json.dumps(model))
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.add_special_tokens([special("<|endoftext|>")])
    return tok


def llama3():
    """Split and ByteLevel, BOS by template, whole words before merges."""
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = split_and_bytes(LLAMA3)
    train(tok, 900)
    # Words that no merge reaches: only ignore_merges finds them.
    model = json.loads(tok.to_str())
    for word in ["Ġlazyword", "zzz", "Ġ你å¥½", "ĠĠĠĠĠĠĠĠĠ"]:
        model["model"]["vocab"][word] = len(model["model"]["vocab"])
    tok = Tokenizer.from_str(json.dumps(model))
    tok.add_special_tokens([special(s) for s in HEADERS])
    bos = tok.token_to_id(HEADERS[0])
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{HEADERS[0]} $A",
                                      pair=f"{HEADERS[0]} $A {HEADERS[0]} $B",
                                      special_tokens=[(HEADERS[0], bos)])])
    return tok


def qwen():
    """NFC, Split and ByteLevel; special tokens and added ones that are not special."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = split_and_bytes(QWEN)
    train(tok, 1000)
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.add_special_tokens([special(s) for s in CHATML])
    tok.add_tokens([plain("<think>", normalized=False), plain("</think>", normalized=False)])
    return tok


def odd():
    """Every property of an added token, a prefix space, and a template on both sides."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Sequence([normalizers.NFC()])
    tok.pre_tokenizer = byte_level(prefix=True, regex=True)
    train(tok, 500)
    tok.add_special_tokens([special("<s>"), special("</s>")])
    tok.add_tokens([
        plain("[l]", normalized=False, lstrip=True), plain("[r]", normalized=False, rstrip=True),
        plain("[b]", normalized=True, lstrip=True, rstrip=True), plain("  [sp]", normalized=False),
        plain("word", normalized=True, single_word=True), plain("[", normalized=False),
        plain("caf\u00e9", normalized=True), plain("re\u0301sume\u0301", normalized=True),
        plain("caf\u00e9 x", normalized=True), plain("Ġz y", normalized=False)])
    tok.post_processor = processors.Sequence([
        processors.TemplateProcessing(single="<s> <s> $A </s>", pair="$A $B",
                                      special_tokens=[("<s>", tok.token_to_id("<s>")),
                                                      ("</s>", tok.token_to_id("</s>"))])])
    return tok


def qwen35():
    """As qwen, but letter runs take combining marks."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = split_and_bytes(QWEN35)
    train(tok, 640, (*CORPUS, *MARKS))
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.add_special_tokens([special(s) for s in CHATML])
    tok.add_tokens([plain("<think>", normalized=False), plain("</think>", normalized=False)])
    return tok


def falcon():
    """Steps behind ByteLevel, which see its alphabet: bytes such as 0xB2 are digits there."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), byte_level(regex=True),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])
    train(tok, 560, (*CORPUS, *DIGITS))
    tok.add_special_tokens([special(s) for s in CHATML])
    return tok


def steps():
    """Digits and Punctuation one at a time, before ByteLevel and behind it; a prefix space; whole
    words before merges."""
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation("isolated"),
        byte_level(prefix=True), pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.Split("Ġ", "isolated"), pre_tokenizers.Digits(individual_digits=True)])
    train(tok, 420, (*CORPUS, *DIGITS))
    tok.add_special_tokens([special(s) for s in CHATML])
    return tok


STYLES = {"gpt2": gpt2, "llama3": llama3, "qwen": qwen, "odd": odd, "qwen35": qwen35,
          "falcon": falcon, "steps": steps}


def assigned():
    """Every character of Unicode 14 (Python's tables must not be older)."""
    return [chr(c) for c in range(0x110000)
            if not 0xD800 <= c <= 0xDFFF and unicodedata.category(chr(c)) != "Cn"
            and not 0xE000 <= c <= 0xF8FF and c < 0xF0000]


def disputed_punctuation():
    """Each character that the library and Unicode 14 disagree about, behind a letter."""
    split = pre_tokenizers.Punctuation("isolated").pre_tokenize_str
    return "".join("a" + c for c in assigned()
                   if (len(split("a" + c)) == 2) != (unicodedata.category(c)[0] == "P"))


def pools(chars):
    """Lists of characters to draw from; the small ones come often."""
    marks = [c for c in chars if unicodedata.category(c)[0] == "M"]
    composed = [c for c in chars if unicodedata.normalize("NFC", c) != c
                or unicodedata.normalize("NFD", c) != c]
    emoji = [chr(c) for c in [*range(0x1F300, 0x1F650), *range(0x1F3FB, 0x1F400), 0x200D, 0xFE0F]]
    return [
        list("abcdefghij XYZ"), list("the and ing er on   "), list("0123456789"),
        list(" \t\n\r\u00a0\u2003\u3000\u0085\u2028"), list("'sStTdDlLmMvVeErR\u017f\u212a "),
        list("!?.,;:-_()[]{}<>|/\\\"'`~@#$%^&*+="), marks, composed, emoji,
        [chr(c) for c in range(0x4E00, 0x4F00)], [chr(c) for c in range(0x3040, 0x3100)],
        [chr(c) for c in range(0xAC00, 0xAC80)] + [chr(c) for c in range(0x1100, 0x1200)],
        [chr(c) for c in range(0x900, 0x980)], [chr(c) for c in range(0x600, 0x6FF)
                                               if unicodedata.category(chr(c)) != "Cn"],
        chars, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<think>", "<|", "|>",
                "[l]", "[r]", "[b]", "word", " ", "\n", "cafe\u0301", "re\u0301sume\u0301"],
    ]


def random_text(rng, from_pools, pieces):
    out = []
    for _ in range(rng.randint(1, pieces)):
        pool = rng.choice(from_pools)
        out.extend(rng.choice(pool) for _ in range(rng.randint(1, 4)))
    return "".join(out)


def fnv(ids):
    value = 0x811C9DC5
    for i in ids:
        for byte in i.to_bytes(4, "little"):
            value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def byte_spans(text, offsets):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [[at[a], at[b]] for a, b in offsets]


def case(tok, text):
    with_special = tok.encode(text)
    without = tok.encode(text, add_special_tokens=False)
    out = {"text": text, "ids": without.ids, "special": with_special.ids,
           "decoded": tok.decode(without.ids, skip_special_tokens=False),
           "skipped": tok.decode(without.ids, skip_special_tokens=True)}
    # Where NFC changes the text, spans are defined differently here (see daemon/text/README.md).
    if tok.normalizer is None or unicodedata.normalize("NFC", text) == text:
        out["spans"] = byte_spans(text, without.offsets)
    tok.encode_special_tokens = True
    out["unparsed"] = tok.encode(text, add_special_tokens=False).ids
    tok.encode_special_tokens = False
    return out


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--out", type=Path,
                      default=Path(__file__).resolve().parents[1] / "golden" / "text")
    args = args.parse_args()
    own_texts = {"qwen35": MARKS + HARD[:50], "falcon": DIGITS + HARD[10:50],
                 "steps": [disputed_punctuation(), *DIGITS, *HARD[10:40]]}
    rng = random.Random(14)
    from_pools = pools(assigned())
    texts = [random_text(rng, from_pools, 6) for _ in range(2500)]
    fuzz = {"texts": texts}
    for name, make in STYLES.items():
        tok = make()
        (args.out / f"{name}.json").write_text(tok.to_str())
        write(args.out / f"{name}.cases.json", [case(tok, t) for t in own_texts.get(name, HARD)])
        fuzz[name] = [fnv(tok.encode(t, add_special_tokens=False).ids) for t in texts]
    write(args.out / "fuzz.json", fuzz)


if __name__ == "__main__":
    main()
