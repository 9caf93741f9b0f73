//! How much stack each program takes, as the oldest kernel that Crier names counts it. Newer ones round frames less, so that a
//! program that no longer fits there would be found out by its users.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolKind};

/// Bytes of stack for a program and all that it calls at a time.
const STACK: u32 = 512;
/// Up to Linux 6.5 a frame is a multiple of this, and none is less.
const FRAME: u32 = 32;
/// The register that points to the end of a frame.
const FRAME_POINTER: u8 = 10;

/// A function of the object.
struct Function {
    /// Bytes of its frame.
    frame: u32,
    calls: BTreeSet<String>,
}

/// An instruction, as far as it matters here (RFC 9669).
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    number: i32,
}

impl Instruction {
    const CLASS: u8 = 0x07;
    const LOADS: u8 = 0x01;
    const STORES: [u8; 2] = [0x02, 0x03];
    const COPY: u8 = 0xbf;
    const ADD: u8 = 0x07;
    const CALL: u8 = 0x85;

    fn read(bytes: &[u8]) -> Self {
        let [code, registers, low, high, a, b, c, d] = *bytes else { panic!("an instruction of {bytes:?}") };
        let (to, from) = (registers & 0x0f, registers >> 4);
        let (offset, number) = (i16::from_le_bytes([low, high]), i32::from_le_bytes([a, b, c, d]));
        Self { code, to, from, offset, number }
    }

    /// How far below the frame's end it reaches; `before` is the one before it.
    fn depth(&self, before: Option<&Self>) -> u32 {
        let class = self.code & Self::CLASS;
        let reads = class == Self::LOADS && self.from == FRAME_POINTER;
        let writes = Self::STORES.contains(&class) && self.to == FRAME_POINTER;
        if reads || writes {
            return u32::from(self.offset.min(0).unsigned_abs());
        }
        let points = before.is_some_and(|copy| {
            copy.code == Self::COPY && copy.from == FRAME_POINTER && copy.to == self.to && self.code == Self::ADD
        });
        if points { self.number.min(0).unsigned_abs() } else { 0 }
    }
}

fn functions(object: &[u8]) -> BTreeMap<String, Function> {
    let file = object::File::parse(object).unwrap();
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
        let range = symbol.address()..symbol.address() + symbol.size();
        let bytes = section.data_range(symbol.address(), symbol.size()).unwrap().unwrap();
        let instructions: Vec<_> = bytes.chunks(8).map(Instruction::read).collect();
        let before = iter::once(None).chain(instructions.iter().map(Some));
        let frame = instructions.iter().zip(before).map(|(this, before)| this.depth(before)).max().unwrap();
        let calls = section.relocations().filter(|(at, _)| range.contains(at)).filter_map(|(at, relocation)| {
            let RelocationTarget::Symbol(target) = relocation.target() else { return None };
            let caller = &instructions[usize::try_from((at - range.start) / 8).unwrap()];
            let called = file.symbol_by_index(target).unwrap().name().unwrap();
            (caller.code == Instruction::CALL).then(|| called.to_owned())
        });
        functions.insert(symbol.name().unwrap().to_owned(), Function { frame, calls: calls.collect() });
    }
    functions
}

/// The deepest that a function and what it calls get, and by which.
fn deepest(functions: &BTreeMap<String, Function>, name: &str) -> (u32, String) {
    let function = &functions[name];
    let (below, whose) = function.calls.iter().map(|called| deepest(functions, called)).max().unwrap_or_default();
    (function.frame.max(1).next_multiple_of(FRAME) + below, format!("{name} {}, {whose}", function.frame))
}

#[test]
fn each_program_and_what_it_calls_fit_on_the_stack_of_the_oldest_kernel() {
    for object in [&include_bytes!("../obj/crier.o")[..], &include_bytes!("../obj/crier-other.o")[..]] {
        let functions = functions(object);
        assert!(functions["crier_connect"].calls.contains("crier_choose"), "calls are seen");
        assert!(functions["crier_choose"].calls.contains("crier_find"), "those of functions, too");
        for name in functions.keys() {
            let (bytes, whose) = deepest(&functions, name);
            println!("{bytes:4} {whose}");
            assert!(bytes <= STACK, "{bytes} bytes: {whose}");
        }
    }
}
