//! Components that cost a compiler far more than they weigh. Each is the sample `hello` with one more module in it, or with
//! types, so that nothing but the cost of compiling it, or a limit, is against it.

use anyhow::Context as _;
use bytes::Bytes;
use wasm_encoder::{
    BlockType, CodeSection, Component, ComponentSection as _, ComponentTypeSection,
    ComponentValType, Function, FunctionSection, InstanceSection, InstructionSink, Module,
    ModuleArg, ModuleSection, NestedComponentSection, PrimitiveValType, RefType, TableSection,
    TableType, TypeSection, ValType,
};

const HELLO: &[u8] = include_bytes!("../../../../samples/components/hello.wasm");
/// The id of a section of a component that is a core module.
const CORE_MODULE: u8 = 1;

/// In what a bomb is large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Blocks in blocks, each of which changes a variable.
    NestedIfs,
    /// Variables that are changed in loops in loops.
    ManyLocals,
    /// Jumps with thousands of targets each.
    BranchTables,
    /// A table of millions of elements.
    BigTable,
    /// Types made of types made of types.
    DeepTypes,
}

impl Family {
    pub(super) const ALL: [Self; 5] = [
        Self::NestedIfs,
        Self::ManyLocals,
        Self::BranchTables,
        Self::BigTable,
        Self::DeepTypes,
    ];

    /// One of its bombs: the larger the number, from 1 on, the larger it is.
    pub(super) fn bomb(self, size: u32) -> anyhow::Result<Bytes> {
        let mut wasm = HELLO.to_vec();
        match self {
            Self::NestedIfs => append(&mut wasm, &repeated(nested_ifs(1_000 + 500 * size), 8)),
            Self::ManyLocals => append(&mut wasm, &repeated(many_locals(2_000, 100 * size), 8)),
            Self::BranchTables => append(&mut wasm, &repeated(branch_tables(200, 2_000), 2 * size)),
            Self::BigTable => {
                append(&mut wasm, &big_table(u64::from(size) * 2_500_000));
                instantiate_last(&mut wasm)?;
            }
            Self::DeepTypes => {
                NestedComponentSection(&deep_types(20 * size)).append_to_component(&mut wasm)
            }
        }
        Ok(wasm.into())
    }
}

/// A module that has the same function so many times.
fn repeated(function: Function, times: u32) -> Module {
    let (mut types, mut functions, mut code) = (
        TypeSection::new(),
        FunctionSection::new(),
        CodeSection::new(),
    );
    types.ty().function([ValType::I32], []);
    for _ in 0..times {
        functions.function(0);
        code.function(&function);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code);
    module
}

/// Each level changes a variable of its own, and what is after a level depends on all that are in it.
fn nested_ifs(depth: u32) -> Function {
    let mut function = Function::new([(depth, ValType::I64)]);
    let mut instructions = function.instructions();
    for level in 1..=depth {
        instructions.local_get(0).if_(BlockType::Empty);
        change(&mut instructions, level);
    }
    for _ in 0..depth {
        instructions.end();
    }
    use_all(&mut instructions, depth);
    instructions.end();
    function
}

/// The innermost of many loops changes all of them, and may go on with any of the loops.
fn many_locals(locals: u32, loops: u32) -> Function {
    let mut function = Function::new([(locals, ValType::I64)]);
    let mut instructions = function.instructions();
    for _ in 0..loops {
        instructions.loop_(BlockType::Empty);
    }
    for local in 1..=locals {
        change(&mut instructions, local);
    }
    for level in 0..loops {
        instructions.local_get(0).br_if(level);
    }
    for _ in 0..loops {
        instructions.end();
    }
    use_all(&mut instructions, locals);
    instructions.end();
    function
}

fn change(instructions: &mut InstructionSink<'_>, local: u32) {
    instructions.local_get(local).i64_const(3).i64_add();
    instructions.local_set(local);
}

/// So that none of them can be left out.
fn use_all(instructions: &mut InstructionSink<'_>, locals: u32) {
    for local in 1..=locals {
        instructions.local_get(local).i32_wrap_i64().call(0);
    }
}

fn branch_tables(tables: u32, targets: u32) -> Function {
    let depth = 100;
    let mut function = Function::new([(8, ValType::I64)]);
    let targets: Vec<u32> = (0..targets).map(|target| target % depth).collect();
    let mut instructions = function.instructions();
    for _ in 0..tables {
        for _ in 0..depth {
            instructions.block(BlockType::Empty);
        }
        instructions
            .local_get(0)
            .br_table(targets.iter().copied(), 0);
        for local in (1..=8).cycle().take(depth as usize) {
            instructions.end();
            change(&mut instructions, local);
        }
    }
    use_all(&mut instructions, 8);
    instructions.end();
    function
}

fn big_table(elements: u64) -> Module {
    let mut tables = TableSection::new();
    tables.table(TableType {
        element_type: RefType::FUNCREF,
        table64: false,
        minimum: elements,
        maximum: None,
        shared: false,
    });
    let mut module = Module::new();
    module.section(&tables);
    module
}

/// In a component of their own, whose numbers nothing else shares. Each is two of the one before: as many values as 2 to the
/// power of `depth`.
fn deep_types(depth: u32) -> Component {
    let mut types = ComponentTypeSection::new();
    types.ty().defined_type().primitive(PrimitiveValType::U8);
    for last in 0..depth {
        let two = [ComponentValType::Type(last); 2];
        types.ty().defined_type().tuple(two);
    }
    let mut component = Component::new();
    component.section(&types);
    component
}

/// Adds a core module.
fn append(wasm: &mut Vec<u8>, module: &Module) {
    ModuleSection(module).append_to_component(wasm);
}

/// Adds an instance of the last core module.
fn instantiate_last(wasm: &mut Vec<u8>) -> anyhow::Result<()> {
    let modules = sections(wasm)?.into_iter().filter(|id| *id == CORE_MODULE);
    let last = modules.count().checked_sub(1).context("no module")?;
    let mut instances = InstanceSection::new();
    let imports: [(&str, ModuleArg); 0] = [];
    instances.instantiate(last.try_into()?, imports);
    instances.append_to_component(wasm);
    Ok(())
}

/// The ids of a component's sections.
fn sections(wasm: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (mut ids, mut rest) = (Vec::new(), wasm.get(8..).context("no header")?);
    while let Some((id, after)) = rest.split_first() {
        let (length, width) = leb128(after).context("a section's length")?;
        rest = after
            .get(width + length..)
            .context("a section is cut off")?;
        ids.push(*id);
    }
    Ok(ids)
}

/// An unsigned number of at most 32 bits, and how many bytes it takes.
fn leb128(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        number |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_the_sample_and_more() {
        let of_sample = sections(HELLO).unwrap();
        for family in Family::ALL {
            let bomb = family.bomb(1).unwrap();
            assert!(bomb.starts_with(HELLO), "{family:?}");
            let ids = sections(&bomb).unwrap();
            assert!(ids.starts_with(&of_sample), "{family:?}");
            assert!(ids.len() > of_sample.len(), "{family:?}");
            // What is only too many bytes is no bomb.
            assert!(family.bomb(4).unwrap().len() < 8 << 20, "{family:?}");
        }
    }

    #[test]
    fn numbers_are_read_as_wasm_writes_them() {
        assert_eq!(leb128(&[0x7f, 1]), Some((127, 1)));
        assert_eq!(leb128(&[0x80, 0x01]), Some((128, 2)));
        assert_eq!(leb128(&[0xe5, 0x8e, 0x26]), Some((624_485, 3)));
        assert_eq!(leb128(&[0x80]), None);
    }
}
