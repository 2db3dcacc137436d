"""Checks of the guest programs that are known to fail: engine -> {program: {name of the check: reason}}.

"kvm" is that of the nested bed, whose processor is QEMU's TCG (seen with 7.2, its source read for the reasons). Most fail the
same way in QEMU alone, without KVM and Hull: test_guest_programs.py checks that. Those that do not are in ONLY_NESTED.
"""

# What QEMU's processor does, with KVM or without.
BITS = "QEMU takes reserved bits of CR8 and MXCSR"
CANONICAL = "QEMU does not check here that an address is canonical"
DEBUG = "QEMU has no DR7.GD, drops old bits of DR6, takes INT1 for a software interrupt and keeps RF"
EM_TS = "QEMU puts #NM before #UD, heeds EM for AVX and not TS for XSAVE"
GATES = "QEMU's error codes and RIP for faulty gates and addresses depart"
LIMITS = "QEMU checks neither limits nor types of segments on access"
LOCK = "QEMU takes LOCK, and group 11, where they are undefined"
MEMORY = "QEMU loads before it finds that it cannot store"
NO_AC = "QEMU has no alignment check"
NULL = "QEMU loads null selectors where that faults"
RESERVED = "QEMU's faults of reserved bits are without P"
RF = "QEMU masks more flags at SYSCALL"
SIMD = "QEMU raises neither #XM nor #MF"
STACK = "QEMU raises #GP for #SS of a non-canonical address"
# What it does below KVM only.
PDPT = "QEMU's walk sets A in PAE's page directory pointers, where KVM then refuses it as reserved"
XSETBV = "QEMU does not intercept XSETBV: KVM, who does not hear of it, puts the old XCR0 back"
NESTED_DF = "QEMU forgets in guest mode that a #PF is under way; no exit to KVM is between"
# What KVM does.
KVM_APIC = "KVM's local APIC has no error status, and does not check EOI and TPR of x2APIC mode"
KVM_IO = "KVM, which carries out the guest's port accesses, does not look for breakpoints there, nor stop in REP OUTS"
KVM_HALTED = "KVM, since Linux 5.19, calls a vCPU preempted only where an interrupt took it out of the guest, not while it halts"


def table(by_reason):
    return {name: reason for reason, names in by_reason.items() for name in names}


KNOWN_FAILURES = {
    "soft": {},
    "kvm": {
        "apic": table({
            KVM_APIC: ["an illegal vector shows in ESR", "x2APIC: EOI takes 0 only", "x2APIC: TPR has 8 bits"],
        }),
        "cpuid": table({
            XSETBV: ["AVX", "AVX2", "F16C", "FMA", "VAES", "the size with AVX"],
        }),
        "debug": table({
            DEBUG: ["DR6 is only ever set", "GD: BD in DR6", "GD: access to a debug register",
                    "GD: cleared for the handler", "INT1 from user mode, whatever the gate's DPL", "INT1: RIP behind it",
                    "access: by MOV SS, one instruction later", "fetch: RF lasts one instruction", "its DR6"],
            KVM_IO: ["TF: over REP OUTSB and IN", "a stop", "port: after IN", "port: after OUT"],
        }),
        "faults": table({
            CANONICAL: ["#GP of a call: RIP", "#GP of a call: RSP", "#GP of a jump: RIP", "#GP of a return: RIP",
                        "#GP of a return: RSP", "#GP of an access across the canonical border",
                        "INT to a non-canonical handler"],
            GATES: ["#UD through an absent gate", "INT beyond the table", "INT from user mode: DPL 0",
                    "INT through an absent gate", "INT through no gate"],
            LOCK: ["#UD C6 /1", "#UD LOCK BT", "#UD LOCK on MOV", "#UD LOCK on TEST", "#UD of LOCK before #PF"],
            MEMORY: ["a change to nothing", "an addition across pages"],
            NESTED_DF: ["#PF through an absent gate: #DF"],
            NO_AC: ["#AC of 8 bytes at 4", "#AC of a misaligned read", "#AC of a misaligned write", "#AC: RIP"],
            NULL: ["#GP of a null DS (IRET has cleared that of CPL 0)", "LTR: null", "SS: null with RPL 3"],
            STACK: ["#SS of POP", "#SS of PUSH", "#SS of RBP as base"],
        }),
        "interrupts": table({
            BITS: ["CR8 has four bits"],
        }),
        "modes": table({
            LIMITS: ["V86: over 64 KiB", "real mode: an access over 64 KiB", "segment downwards, 16 bits: over the end",
                     "segment downwards: over the end", "segment downwards: within the limit",
                     "segment in pages: over its limit", "segment of 4 GiB: over its limit",
                     "segment of 4 GiB: write over its limit", "segment: code is not written",
                     "segment: null", "segment: over its limit", "segment: read-only",
                     "stack segment: over its limit"],
            RF: ["SYSCALL: masked flags"],
        }),
        "msr": table({
            CANONICAL: ["WRFSBASE non-canonical", "WRGSBASE non-canonical", "non-canonical"],
        }),
        "paravirt": table({
            KVM_HALTED: ["TLB flush: a halted processor is preempted"],
        }),
        "paging": table({
            PDPT: ["PAE: NX page, write", "PAE: absent", "PAE: absent pointer", "PAE: fetch", "PAE: fetch from an NX page",
                   "PAE: read-only", "PAE: user read of a supervisor page"],
            RESERVED: ["1 GiB page: reserved bit 20", "2 MiB page: reserved bit 13", "4 MiB page: reserved bit 21",
                       "NX without NXE is reserved", "PAE: NX is reserved without NXE", "PAE: reserved bit 62",
                       "PS at level 4 is reserved", "reserved bit 51: fetch", "reserved bit 51: read",
                       "reserved bit 51: user fetch", "reserved bit 51: user read", "reserved bit 51: user write",
                       "reserved bit 51: write"],
        }),
        "xsave": table({
            BITS: ["FXRSTOR: reserved bits of MXCSR", "MXCSR: reserved bits"],
            EM_TS: ["AVX does not care for EM", "MMX", "SSE", "XSAVE with TS"],
            SIMD: ["#MF at the next x87 instruction", "#UD in its place without OSXMMEXCPT", "#XM"],
            XSETBV: ["AVX", "AVX with TS", "XGETBV", "unexpected trap 6"],
        }),
    },
}

ONLY_NESTED = {KVM_APIC, KVM_HALTED, KVM_IO, NESTED_DF, PDPT, XSETBV}
