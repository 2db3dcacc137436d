#!/usr/bin/env python3
"""Makes the C tables of src/cpu/x86 from instructions.def, whose head explains the notation.

Usage: x86_table.py instructions.def x86_instructions.h x86_tables.c"""
import re
import sys

CONDITIONS = "o no b ae z nz be a s ns p np l ge le g".split()
CONDITION_FLAGS = ["o", "c", "z", "cz", "s", "p", "so", "zso"]
FLAG_BITS = {"c": 0, "p": 2, "a": 4, "z": 6, "s": 7, "t": 8, "i": 9, "d": 10, "o": 11, "l": 12, "n": 14,
             "r": 16, "v": 17, "x": 18, "f": 19, "g": 20, "e": 21}
ATTRIBUTES = {"lock": "LOCKABLE", "priv": "PRIVILEGED", "io": "IO", "branch": "BRANCH", "string": "STRING",
              "x87": "X87", "mmx": "MMX", "sse": "SSE", "vex": "VEX", "aligned": "ALIGNED",
              "system": "SYSTEM", "serializes": "SERIALIZES", "fp": "FP"}
SIZES = {"0": "0", "b": "B", "w": "W", "d": "D", "q": "Q", "t": "T", "dq": "DQ", "qq": "QQ", "fx": "FX",
         "v": "V", "z": "Z", "y": "Y", "n": "N", "p": "P", "pt": "PT", "a": "A", "bound": "BOUND", "x": "X",
         "xh": "XH", "xq": "XQ", "xe": "XE", "env": "ENV", "fsave": "FSAVE", "ss": "D", "sd": "Q"}
# letter: (source, register class)
LETTERS = {"E": ("RM", "GPR"), "R": ("RM", "GPR"), "M": ("RM", "GPR"), "G": ("REG", "GPR"),
           "Z": ("OPCODE", "GPR"), "B": ("VVVV", "GPR"), "S": ("REG", "SEGMENT"), "C": ("REG", "CONTROL"),
           "D": ("REG", "DEBUG"), "P": ("REG", "MMX"), "Q": ("RM", "MMX"), "N": ("RM", "MMX"),
           "V": ("REG", "VECTOR"), "W": ("RM", "VECTOR"), "U": ("RM", "VECTOR"), "H": ("VVVV", "VECTOR"),
           "L": ("IS4", "VECTOR"), "F": ("RM", "X87"), "I": ("IMM", "GPR"), "J": ("REL", "GPR"),
           "A": ("FAR", "GPR"), "O": ("MOFFS", "GPR"), "X": ("STRING_SI", "GPR"), "Y": ("STRING_DI", "GPR"),
           "K": ("RM", "GPR")}
GPRS = ["AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"]
SEGMENTS = ["ES", "CS", "SS", "DS", "FS", "GS"]
PREFIXES = ["", "66", "f3", "f2"]


class TableError(Exception):
    pass


def fixed_register(name):
    """(class, number, size) of a register written by name, or None."""
    if name in SEGMENTS:
        return "SEGMENT", SEGMENTS.index(name), "W"
    if name in ("AL", "CL", "DL", "BL"):
        return "GPR", "ACDB".index(name[0]) if name[0] != "C" else 1, "B"
    if name == "AH":
        return "GPR", 4, "B"
    if name in GPRS:
        return "GPR", GPRS.index(name), "W"
    sizes = {"E": "D", "R": "Q", "v": "V", "y": "Y", "a": "A", "n": "N", "z": "Z"}
    if name[0] in sizes and name[1:] in GPRS:
        return "GPR", GPRS.index(name[1:]), sizes[name[0]]
    if name == "R11":
        return "GPR", 11, "Q"
    if name == "ST0":
        return "X87", 0, "T"
    if name == "ST1":
        return "X87", 1, "T"
    if name == "XMM0":
        return "VECTOR", 0, "DQ"
    if name == "YMM0":
        return "VECTOR", 0, "X"
    return None


class Operand:
    def __init__(self, text):
        self.source, self.reg_class, self.number = "NONE", "GPR", 0
        self.size = self.size_mem = "0"
        self.index_size = "0"
        self.form = "any"  # what ModRM.mod must be: any, mem, reg
        self.implicit = text.startswith("~")
        body, _, access = text.lstrip("~").partition(":")
        if access not in ("", "r", "w", "rw", "n"):
            raise TableError(f"access of {text}")
        self.access = {"": 1, "r": 1, "w": 2, "rw": 3, "n": 0}[access]
        fixed = fixed_register(body)
        if fixed:
            self.source = "FIXED"
            self.reg_class, self.number, self.size = fixed
            self.letter = ""
            return
        if body in ("0", "1", "3"):
            self.source, self.number, self.size, self.letter = "CONSTANT", int(body), "B", ""
            return
        if re.fullmatch(r"\[(BX|DI|AX)\](\w+)", body):
            self.source, self.number, self.letter = "BASE", GPRS.index(body[1:3]), ""
            self.size = self.size_mem = SIZES[body[4:]]
            return
        first, _, second = body.partition("/")
        self.letter = first[0]
        self.source, self.reg_class = LETTERS[first[0]]
        if first[0] == "K":  # vector-indexed memory: K<index size>.<size of all elements>
            index, _, size = first[1:].partition(".")
            self.index_size, self.form = SIZES[index], "mem"
            self.size = self.size_mem = SIZES[size]
            return
        size = first[1:]
        if first[0] == "I" and size.startswith("s"):
            self.source, size = "IMM_SIGN", size[1:]
            if size == "b":
                self.number = 1
                size = "v"
            elif size == "bb":
                self.number = 1
                size = "b"
        self.size = self.size_mem = SIZES[size]
        if first[0] in "RNU":
            self.form = "reg"
        if first[0] == "M":
            self.form = "mem"
        if second:
            if second[0] != "M":
                raise TableError(f"operand {text}")
            self.size_mem, self.form = SIZES[second[1:]], "any"


class Row:
    def __init__(self, mnemonic, encoding, operands, notes, section):
        self.mnemonic, self.text = mnemonic, encoding
        self.prefix = "any"
        self.map, self.opcode, self.plus = 0, None, ""
        self.reg = self.rm = None
        self.mod = "any"
        self.modrm = False
        self.vex = False
        self.refused = set()
        self.form_flags = set()
        self.feature, self.attributes = section
        self.attributes = set(self.attributes)
        self.flags = {"r": 0, "w": 0, "u": 0}
        self.operands = [Operand(o) for o in operands.split()]
        if len(self.operands) > 6:
            raise TableError("more than six operands")
        self.parse_encoding(encoding.split())
        self.parse_notes(notes.split())
        for o in self.operands:
            if o.source in ("RM", "REG"):
                self.modrm = True
            if o.form != "any" and "MOD_IS_REG" not in self.form_flags:
                if self.mod not in ("any", o.form):
                    raise TableError("memory and register form at once")
                self.mod = o.form
            if o.letter == "K":
                self.form_flags.add("VSIB")
        if self.vex and not any(o.source == "VVVV" for o in self.operands):
            self.form_flags.add("NO_VVVV")
        if self.prefix in ("66", "f3", "f2"):
            self.form_flags.add("PREFIX_" + self.prefix.upper())

    def parse_encoding(self, words):
        if words[0] in ("66", "f3", "f2", "np", "norep"):
            if not (words[0] == "66" and len(words) == 1):
                self.prefix = words.pop(0)
        if words[0].startswith("vex."):
            self.vex = True
            _, length, pp, vmap, w = words.pop(0).split(".")
            self.prefix = pp
            self.map = {"0f": 4, "0f38": 5, "0f3a": 6}[vmap]
            if length in ("128", "l0"):
                self.refused.add("L1")
            elif length == "256":
                self.refused.add("L0")
            elif length not in ("lx", "lig"):
                raise TableError("VEX.L")
            if w != "wig":
                self.refused.add({"w0": "W1", "w1": "W0"}[w])
        elif words[0] == "0f":
            words.pop(0)
            self.map = 1
            if words[0] in ("38", "3a") and len(words) > 1 and re.match(r"[0-9a-f]{2}", words[1]):
                self.map = {"38": 2, "3a": 3}[words.pop(0)]
        opcode, _, self.plus = words.pop(0).partition("+")
        self.opcode = int(opcode, 16)
        for word in words:
            if word == "/r":
                self.modrm = True
            elif re.fullmatch(r"/[0-7]", word):
                self.modrm, self.reg = True, int(word[1])
            elif re.fullmatch(r"=[0-9a-f]{2}", word):
                value = int(word[1:], 16)
                self.modrm, self.mod, self.reg, self.rm = True, "reg", value >> 3 & 7, value & 7
            elif word in ("mem", "reg"):
                self.modrm, self.mod = True, word
            elif word in ("w0", "w1"):
                self.refused.add({"w0": "W1", "w1": "W0"}[word])
            elif word in ("b0", "b1"):
                self.refused.add({"b0": "B1", "b1": "B0"}[word])
            elif word in ("o16", "o32", "o64"):
                self.refused |= {"OPERAND_2", "OPERAND_4", "OPERAND_8"} - {
                    {"o16": "OPERAND_2", "o32": "OPERAND_4", "o64": "OPERAND_8"}[word]}
            else:
                raise TableError(f"encoding word {word}")

    def parse_notes(self, words):
        for word in words:
            if re.fullmatch(r"[rwu]:[a-z]+", word):
                kind, letters = word.split(":")
                if letters == "all":
                    letters = "oszapcdtinlrxfgev"
                if letters == "status":
                    letters = "oszapc"
                for letter in letters:
                    self.flags[kind] |= (3 if letter == "l" else 1) << FLAG_BITS[letter]
            elif word in ATTRIBUTES:
                self.attributes.add(word)
            elif word.startswith("-") and word[1:] in ATTRIBUTES:
                self.attributes.discard(word[1:])
            elif word == "no64":
                self.refused.add("MODE_64")
            elif word == "only64":
                self.refused |= {"MODE_16", "MODE_32"}
            elif word == "d64":
                self.form_flags.add("DEFAULT_64")
            elif word == "modreg":
                self.form_flags.add("MOD_IS_REG")
            elif word == "distinct":
                self.form_flags.add("DISTINCT")
            elif re.fullmatch(r"[A-Z][A-Z0-9_]*", word):
                self.feature = word
            else:
                raise TableError(f"note {word}")

    def opcodes(self):
        return range(self.opcode, self.opcode + 8) if self.plus == "r" else [self.opcode]

    def matches(self, prefix, reg, mod):
        """Whether the row is for this mandatory prefix (index), ModRM.reg and mod (0 memory, 1 register)."""
        if self.prefix == "np" and prefix != 0 or self.prefix == "norep" and prefix > 1:
            return False
        if self.prefix in ("66", "f3", "f2") and PREFIXES[prefix] != self.prefix:
            return False
        if self.reg is not None and self.reg != reg:
            return False
        return "MOD_IS_REG" in self.form_flags or self.mod == "any" or (self.mod == "reg") == (mod == 1)

    def specificity(self):
        return ({"any": 0, "norep": 1}.get(self.prefix, 2), self.reg is not None, self.mod != "any",
                self.rm is not None, len(self.refused))

    def condition(self):
        """What is left to check once a list is selected."""
        return (frozenset(self.refused), self.rm)


def excludes(a, b):
    """Whether no encoding can match both rows of one list."""
    if a.rm is not None and b.rm is not None and a.rm != b.rm:
        return True
    groups = [{"MODE_16", "MODE_32", "MODE_64"}, {"W0", "W1"}, {"L0", "L1"}, {"B0", "B1"},
              {"OPERAND_2", "OPERAND_4", "OPERAND_8"}]
    return any(group <= a.refused | b.refused for group in groups)


def read_rows(path):
    rows, section = [], ("NONE", [])
    with open(path, encoding="ascii") as file:
        for number, line in enumerate(file, 1):
            line = line.split("#")[0].rstrip()
            if not line:
                continue
            try:
                if line.startswith("@"):
                    words = line[1:].split()
                    for word in words[1:]:
                        if word not in ATTRIBUTES:
                            raise TableError(f"attribute {word}")
                    section = (words[0], words[1:])
                    continue
                fields = [f.strip() for f in line.split("|")]
                if len(fields) != 4:
                    raise TableError("a row has four fields")
                mnemonic, encoding, operands, notes = fields
                if not re.search(r"\+cc\b", encoding):
                    rows.append(Row(mnemonic, encoding, operands, notes, section))
                    continue
                base = int(re.search(r"([0-9a-f]{2})\+cc", encoding)[1], 16)
                for index, condition in enumerate(CONDITIONS):
                    rows.append(Row(mnemonic.replace("cc", condition),
                                    re.sub(r"[0-9a-f]{2}\+cc", f"{base + index:02x}", encoding), operands,
                                    f"{notes} r:{CONDITION_FLAGS[index // 2]}", section))
            except (TableError, KeyError, ValueError, IndexError) as error:
                raise SystemExit(f"{path}:{number}: {error!r}: {line}")
    return rows


def identifier(mnemonic):
    return re.sub(r"\W", "_", mnemonic).upper()


def make_header(rows):
    ids = list(dict.fromkeys(identifier(r.mnemonic) for r in rows))
    features = list(dict.fromkeys(r.feature for r in rows if r.feature != "NONE"))
    out = ["/* Made by tools/x86_table.py from src/cpu/x86/instructions.def. */", "#ifndef GENERATED_X86_INSTRUCTIONS_H",
           "#define GENERATED_X86_INSTRUCTIONS_H", "", "enum x86_id {", "    X86_ID_NONE,"]
    out += [f"    X86_ID_{i}," for i in ids]
    out += ["    X86_ID_COUNT,", "};", "", "enum x86_feature {", "    X86_FEATURE_NONE,"]
    out += [f"    X86_FEATURE_{f}," for f in features]
    out += ["    X86_FEATURE_COUNT,", "};", "", "#endif", ""]
    return "\n".join(out)


def plan_opcode(rows):
    """(flags, [list of rows for each way the opcode splits])"""
    def lists(use_prefix, use_reg, use_mod):
        result = []
        for prefix in range(4) if use_prefix else [None]:
            for reg in range(8) if use_reg else [None]:
                for mod in range(2) if use_mod else [None]:
                    result.append([r for r in rows if r.matches(prefix or 0, reg or 0, mod or 0)])
        return result
    use_prefix = any(r.prefix != "any" for r in rows)
    use_reg = any(r.reg is not None for r in rows)
    use_mod = any(r.mod != "any" and "MOD_IS_REG" not in r.form_flags for r in rows)
    flags = [n for n, u in (("SPLIT_PREFIX", use_prefix), ("SPLIT_REG", use_reg), ("SPLIT_MOD", use_mod)) if u]
    modrm = {r.modrm for r in rows}
    if modrm == {True}:
        flags.append("HAS_MODRM")
    elif modrm == {True, False}:
        raise SystemExit(f"rows of {rows[0].text} disagree about ModRM")
    result = lists(use_prefix, use_reg, use_mod)
    for candidates in result:
        candidates.sort(key=Row.specificity, reverse=True)
        for i, a in enumerate(candidates):
            for b in candidates[i + 1:]:
                if a.specificity() == b.specificity() and not excludes(a, b):
                    raise SystemExit(f"ambiguous: {a.mnemonic} {a.text} and {b.mnemonic} {b.text}")
    return flags, result


def make_tables(rows):
    for index, row in enumerate(rows):
        row.index = index
    out = ["/* Made by tools/x86_table.py from src/cpu/x86/instructions.def. */",
           '#include "cpu/x86/encoding.h"', '#include "cpu/x86/tables.h"', "", "const struct x86_row x86_rows[] = {"]
    for r in rows:
        attributes = " | ".join(sorted("X86_ROW_" + ATTRIBUTES[a] for a in r.attributes)) or "0"
        out.append(f'    {{"{r.mnemonic}", X86_ID_{identifier(r.mnemonic)}, X86_FEATURE_{r.feature}, {attributes}, '
                   f'{r.flags["r"]:#x}, {r.flags["w"]:#x}, {r.flags["u"]:#x}}},')
    out += ["};", f"const size_t x86_row_count = {len(rows)};", "", "const struct x86_form x86_forms[] = {"]
    for r in rows:
        flags = " | ".join(sorted("X86_FORM_" + f for f in r.form_flags)) or "0"
        vsib = next((o.index_size for o in r.operands if o.letter == "K"), "0")
        forms = ", ".join(f"{{X86_SOURCE_{o.source}, X86_REG_{o.reg_class}, {o.number}, "
                          f"{o.access | (0x80 if o.implicit else 0):#x}, X86_SIZE_{o.size}, X86_SIZE_{o.size_mem}}}"
                          for o in r.operands) or "{0}"
        out.append(f"    {{{flags}, X86_SIZE_{vsib}, {len(r.operands)}, {{{forms}}}}},")
    out += ["};", ""]
    out += make_encodings(rows)
    candidates, lists, entries, known = [], [], {}, {}
    for table_map in range(7):
        for opcode in range(256):
            mine = [r for r in rows if r.map == table_map and opcode in r.opcodes()]
            if not mine:
                continue
            flags, split = plan_opcode(mine)
            starts = []
            for chosen in split:
                key = tuple(r.index for r in chosen)
                if not chosen:
                    starts.append("X86_LIST_EMPTY")
                    continue
                if key not in known:
                    known[key] = len(candidates)
                    for r in chosen:
                        refused = " | ".join(sorted("X86_WHEN_" + c for c in r.refused)) or "0"
                        mask = 7 if r.rm is not None else 0
                        last = "true" if r is chosen[-1] else "false"
                        candidates.append(f"    {{{r.index}, {refused}, {mask}, {r.rm or 0}, {last}}}, "
                                          f"/* {r.mnemonic} {r.text} */")
                starts.append(str(known[key]))
            entries[table_map, opcode] = (len(lists), flags)
            lists += starts
    empty = len(lists)
    lists.append("X86_LIST_EMPTY")
    out += ["const struct x86_candidate x86_candidates[] = {"] + candidates + ["};", ""]
    out += ["const uint16_t x86_lists[] = {"] + [f"    {s}," for s in lists] + ["};", ""]
    out += ["const struct x86_opcode_entry x86_opcodes[X86_TABLE_MAPS][256] = {"]
    for table_map in range(7):
        out.append("    {")
        for opcode in range(256):
            base, flags = entries.get((table_map, opcode), (empty, []))
            out.append(f"        {{{base}, {' | '.join('X86_' + f for f in flags) or '0'}}}, /* {opcode:02x} */")
        out.append("    },")
    out += ["};", ""]
    return "\n".join(out)


def make_encodings(rows):
    """What encoding.h needs to build an instruction from a row."""
    out = ["const struct x86_row_encoding x86_row_encodings[] = {"]
    for r in rows:
        modrm = {"any": "ANY", "mem": "MEMORY", "reg": "REGISTER"}[r.mod] if r.modrm else "NONE"
        reg = r.reg if r.reg is not None else 0xff
        rm = r.rm if r.rm is not None else 0xff
        prefix = {"66": "0x66", "f3": "0xf3", "f2": "0xf2"}.get(r.prefix, "0")
        vmap = r.map - 3 if r.vex else r.map
        refused = " | ".join(sorted("X86_WHEN_" + c for c in r.refused)) or "0"
        out.append(f"    {{{r.index}, {vmap}, {r.opcode:#04x}, {'true' if r.plus == 'r' else 'false'}, "
                   f"{'true' if r.vex else 'false'}, {prefix}, "
                   f"X86_MODRM_{modrm}, {reg}, {rm}, {refused}}},")
    return out + ["};", ""]


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    rows = read_rows(sys.argv[1])
    for path, text in ((sys.argv[2], make_header(rows)), (sys.argv[3], make_tables(rows))):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)


if __name__ == "__main__":
    main()
