// The memory model and the protocol checker for Python (sim/memory.py), by ctypes.

#include "axi.hpp"
#include "axi_checker.hpp"
#include "memory_model.hpp"

using namespace tokenloom;

namespace {

struct Memory {
    std::vector<uint8_t> data;
    MemoryModel model;

    Memory(const MemoryTiming& timing, uint64_t seed, const uint8_t* from, uint64_t bytes)
        : data(from, from + bytes), model(timing, seed, data.data(), data.size()) {}
};

}  // namespace

extern "C" {

// Names of the timing's values in their order.
const char* tm_fields() {
#define TL_FIELD(name) #name " "
    return TL_MEMORY_FIELDS(TL_FIELD);
#undef TL_FIELD
}

// What Python knows too and has to know alike.
uint64_t tm_sizes(int which) {
    const uint64_t sizes[] = {sizeof(AxiMaster), sizeof(AxiSlave), AXI_BURST_BEATS,
                              AXI_BURST_BYTES};
    return sizes[which];
}

Memory* tm_new(const int64_t* timing, uint64_t seed, const uint8_t* data, uint64_t bytes) {
    MemoryTiming figures;
    std::memcpy(&figures, timing, sizeof figures);
    return new Memory(figures, seed, data, bytes);
}
void tm_delete(Memory* memory) { delete memory; }
void tm_out(Memory* memory, AxiSlave* out) { *out = memory->model.out; }
void tm_cycle(Memory* memory, const AxiMaster* in, AxiSlave* out) {
    memory->model.cycle(*in);
    *out = memory->model.out;
}
void tm_peek(Memory* memory, uint64_t address, uint8_t* to, uint64_t bytes) {
    std::memcpy(to, memory->data.data() + address, bytes);
}
void tm_counters(Memory* memory, MemoryModel::Counters* to) { *to = memory->model.count; }
int64_t tm_linear(const int64_t* timing, uint64_t seed, int64_t cycles, int64_t burst_bytes) {
    MemoryTiming figures;
    std::memcpy(&figures, timing, sizeof figures);
    return linear_reader(figures, seed, cycles, burst_bytes);
}

AxiChecker* tm_checker(int64_t beat_bytes, int64_t reads, int64_t writes, int64_t patience) {
    return new AxiChecker({beat_bytes, reads, writes, patience});
}
void tm_checker_delete(AxiChecker* checker) { delete checker; }
int tm_check(AxiChecker* checker, const AxiMaster* master, const AxiSlave* slave, int reset) {
    checker->cycle(*master, *slave, reset);
    return checker->rule;
}
void tm_verdict(AxiChecker* checker, int64_t* cycle, uint64_t* address) {
    *cycle = checker->cycle_of, *address = checker->address_of;
}
int tm_rules() { return AXI_RULES; }
const char* tm_rule_name(int rule) { return axi_rule_name(rule); }
const char* tm_rule_text(int rule) { return axi_rule_text(rule); }

}  // extern "C"
