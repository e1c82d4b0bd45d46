// Drives the verilated chip: a memory behind its channels, requests, and the record of a run.
// Built with the macros TL_COLUMNS, TL_ROWS, TL_PORT_BYTES, TL_ADDR_BITS, TL_WRITE_ADDR_BITS,
// TL_UNITS, TL_READS, TL_WRITES; with TL_TAP_WORDS when the chip shows every operation's output;
// with TL_COUNTING when the compiler counts how often each branch is taken;
// with TL_CARD when the top is the card, which a host drives over AXI4-Lite instead of these
// functions; the record of its passes comes from the ports of the chip within.
//
// The simulator's top has a register in front of each of the memory's signals. So what `memory`
// sets before a rising edge is what the chip sees after it, in the cycle in which the chip's own
// outputs are looked at next: both sides see every handshake in the same cycle.

#include <bit>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "axi_checker.hpp"
#include "memory_model.hpp"

#ifdef TL_COUNTING
extern "C" void __gcov_dump(void);
#endif

#include "Vchip.h"  // the simulator's top: the chip with its inputs registered
#include "verilated.h"

using namespace tokenloom;

namespace {

constexpr int C = TL_COLUMNS;
static_assert(C <= 64, "the simulator drives at most 64 channels");
constexpr int R = TL_ROWS;
constexpr int WORD = TL_PORT_BYTES;
constexpr int LANES = WORD / 4;
static_assert(C <= 32, "two bits per channel, as of responses, are kept in 64");

// A packed port is an integer or a VlWide; both as 32-bit words.
template <typename T>
uint64_t bits(const T& port, int low, int width) {
    if constexpr (std::is_integral_v<T>) {
        return (uint64_t(port) >> low) & (width == 64 ? ~0ull : (1ull << width) - 1);
    } else {
        uint64_t value = 0;
        for (int done = 0; done < width;) {
            int at = low + done, take = std::min(32 - at % 32, width - done);
            value |= ((uint64_t(port[at / 32]) >> (at % 32)) & ((1ull << take) - 1)) << done;
            done += take;
        }
        return value;
    }
}

template <typename T>
void set_words(T& port, int first, const uint32_t* words, int count) {
    static_assert(!std::is_integral_v<T>, "data ports are wide");
    std::memcpy(&port[first], words, size_t(count) * 4);
}

// A read that the ideal memory has yet to answer.
struct Burst {
    uint64_t address;
    int words;
};

constexpr AxiChecker::Limits LIMITS = {WORD, TL_READS, TL_WRITES, 64};

struct Pass {
    int32_t rows, pos, sample, pad;
    int64_t elapsed, scheduled, stall_tape, stall_row, stall_kv, stall_other, beats, saturated;
};

struct Event {
    int32_t pass, unit, finished, pad;
    int64_t cycle;
};

struct Chip {
    VerilatedContext context;
    Vchip top;
    std::vector<std::vector<uint8_t>> memory{C};
    std::deque<Burst> reads[C];                // of the ideal memory
    std::unique_ptr<MemoryModel> models[C];    // none: the memory is ideal
    std::vector<AxiChecker> checkers{C, AxiChecker(LIMITS)};
    AxiMaster master[C]{};
    bool ideal = true;
    int broken = -1;  // channel whose protocol is broken
    uint64_t valid = 0;  // channels that give a word to the chip in this cycle
    std::vector<uint32_t> prompt;
    size_t prompt_at = 0;
    std::vector<Pass> passes;
    std::vector<Event> events;
    std::vector<int32_t> logits[R];
    std::vector<uint32_t> taps;  // of the pass in progress, or of the last one
    bool in_pass = false, started = false, held = false;
    int64_t belt = 0, cycles = 0;
    int32_t hold_mode = 0;
    uint64_t hold_arg = 0, random = 1;
    int32_t fault = 0;
    int32_t fault_channel = -1, fault_write = 0;
    uint64_t fault_address = 0;

    uint64_t power_up = 0;  // digest of what the outputs were before the first edge

    // What registers and memories without a value of their own begin with: zero, or noise.
    static VerilatedContext* begun(VerilatedContext& context, int seed) {
        context.randReset(seed ? 2 : 0);
        context.randSeed(seed);
        return &context;
    }

    explicit Chip(int seed) : top(begun(context, seed)) {
        // Noise is the chip's, not that of who drives it.
        top.clk = top.rst = 0;
#ifdef TL_CARD
        top.s_axi_awvalid = top.s_axi_wvalid = top.s_axi_bready = 0;
        top.s_axi_arvalid = top.s_axi_rready = 0;
#else
        top.cfg_we = 0;
#endif
        top.eval();
        if (seed) {
            for (int c = 0; c < C; c++)
                for (uint64_t part : {bits(top.ar_addr, c * TL_ADDR_BITS, TL_ADDR_BITS),
                                      bits(top.w_data, 8 * WORD * c, 64)})
                    power_up = (power_up ^ part) * 0x9E3779B97F4A7C15ull;
        }
        reset();
    }

    // The chip's memories keep what they hold; behind its channels lies the ideal one. Memory and
    // chip are reset together, requests and answers under way are no more: an acknowledgement
    // afterwards would be one of a write that the chip no longer knows. (A card whose memory goes on
    // awaits them first, see hw/card/control.py.)
    void reset() {
        for (auto& queue : reads) queue.clear();
        prompt.clear();
        prompt_at = 0;
#ifndef TL_CARD
        top.req_valid = top.prompt_valid = top.hold = 0;
#endif
        top.rst = 1;
        top.r_valid = top.b_valid = 0;
        top.r_resp = top.b_resp = 0;
        valid = 0;
        ideal = true;
        checkers.assign(C, AxiChecker(LIMITS));
        broken = -1;
        for (int i = 0; i < 4; i++) {
            edge();
            // One edge for the register in front of the reset, one for the chip's own.
            for (int c = 0; c < C && i > 1; c++) watch(c, {}, true);
        }
        top.rst = 0;
        for (int i = 0; i < 2; i++) edge();
        top.ar_ready = top.aw_ready = top.w_ready = ~0ull >> (64 - C);
        in_pass = started = held = false;
        fault = 0;
    }

    ~Chip() { top.final(); }

    void edge() {
        rise();
        fall();
    }

    void rise() {
        top.clk = 1;
        top.eval();
        cycles++;
    }

    // Inputs set since the rising edge settle here.
    void fall() {
        top.clk = 0;
        top.eval();
    }

    uint8_t* at(int c, uint64_t address) {
        if (address + WORD > memory[c].size()) {
            fault = 1 + c;
            return nullptr;
        }
        return memory[c].data() + address;
    }

    // One clock cycle: looks at the outputs, answers, and advances.
    void cycle() {
        record();
        if (ideal) answer_at_once();
        else answer_by_model();
#ifdef TL_CARD
        edge();
    }
#else
        bool prompt_taken = top.prompt_valid && top.prompt_ready;
        bool request_taken = top.req_valid && top.req_ready;
        rise();
        if (prompt_taken) prompt_at++;
        top.prompt_valid = prompt_at < prompt.size();
        if (top.prompt_valid) top.prompt_token = prompt[prompt_at];
        if (request_taken) top.req_valid = 0;
        top.hold = hold();
        fall();
    }
#endif

    // The ideal memory: always ready, a word in the next cycle, a write acknowledged in the next.
    // It takes address and data of a write in the same cycle, since the chip shows them together.
    void answer_at_once() {
        uint64_t last = 0, taken = top.r_ready & valid;
        for (uint64_t left = taken; left; left &= left - 1) {
            Burst& burst = reads[std::countr_zero(left)].front();
            burst.address += WORD;
            if (--burst.words == 0) reads[std::countr_zero(left)].pop_front();
        }
        valid &= ~taken;
        for (uint64_t left = top.ar_valid; left; left &= left - 1) {
            int c = std::countr_zero(left);
            reads[c].push_back({bits(top.ar_addr, c * TL_ADDR_BITS, TL_ADDR_BITS),
                                int(bits(top.ar_len, 4 * c, 4)) + 1});
        }
        for (uint64_t left = top.w_valid; left; left &= left - 1) {
            int c = std::countr_zero(left);
            if (uint8_t* to = at(c, bits(top.aw_addr, TL_WRITE_ADDR_BITS * c, TL_WRITE_ADDR_BITS))) {
                for (int i = 0; i < WORD; i++)
                    if (bits(top.w_strobe, WORD * c + i, 1))
                        to[i] = uint8_t(bits(top.w_data, 8 * (WORD * c + i), 8));
            }
        }
        for (int c = 0; c < C; c++) {
            if (reads[c].empty()) continue;
            if (reads[c].front().words == 1) last |= 1ull << c;
            if (valid >> c & 1) continue;
            if (const uint8_t* from = at(c, reads[c].front().address)) {
                uint32_t words[LANES];
                std::memcpy(words, from, WORD);
                set_words(top.r_data, c * LANES, words, LANES);
            }
            valid |= 1ull << c;
        }
        top.r_valid = valid;
        top.r_last = last;
        top.b_valid = top.w_valid;
    }

    // The memory model behind every channel, each port watched by a checker.
    void answer_by_model() {
        uint64_t ar = 0, aw = 0, w = 0, r = 0, last = 0, resp = 0, b = 0, b_resp = 0;
        for (int c = 0; c < C; c++) {
            AxiSlave& out = models[c]->out;
            watch(c, out, false);
            bool waited = out.r_valid && !master[c].r_ready;
            models[c]->cycle(master[c]);
            ar |= uint64_t(out.ar_ready) << c;
            aw |= uint64_t(out.aw_ready) << c;
            w |= uint64_t(out.w_ready) << c;
            r |= uint64_t(out.r_valid) << c;
            last |= uint64_t(out.r_last) << c;
            resp |= uint64_t(out.r_resp) << 2 * c;
            b |= uint64_t(out.b_valid) << c;
            b_resp |= uint64_t(out.b_resp) << 2 * c;
            if (out.r_valid && !waited) {
                uint32_t words[LANES];
                std::memcpy(words, out.r_data, WORD);
                set_words(top.r_data, c * LANES, words, LANES);
            }
        }
        top.ar_ready = ar, top.aw_ready = aw, top.w_ready = w;
        top.r_valid = r, top.r_last = last, top.r_resp = resp;
        top.b_valid = b, top.b_resp = b_resp;
    }

    static void address(AxiAddress& to, bool valid, uint64_t addr, uint64_t len, uint64_t size,
                        uint64_t burst, uint64_t id) {
        to = {valid, uint8_t(id), uint8_t(len), uint8_t(size), uint8_t(burst), addr};
    }

    // Gathers what the chip drives on a port, and checks the port.
    void watch(int c, const AxiSlave& slave, bool reset) {
        AxiMaster& m = master[c];
        m.ar.valid = bits(top.ar_valid, c, 1);
        if (m.ar.valid)
            address(m.ar, true, bits(top.ar_addr, c * TL_ADDR_BITS, TL_ADDR_BITS),
                    bits(top.ar_len, 4 * c, 4), bits(top.ar_size, 3 * c, 3),
                    bits(top.ar_burst, 2 * c, 2), bits(top.ar_id, TL_ID_BITS * c, TL_ID_BITS));
        m.aw.valid = bits(top.aw_valid, c, 1);
        if (m.aw.valid)
            address(m.aw, true, bits(top.aw_addr, TL_WRITE_ADDR_BITS * c, TL_WRITE_ADDR_BITS),
                    bits(top.aw_len, 4 * c, 4), bits(top.aw_size, 3 * c, 3),
                    bits(top.aw_burst, 2 * c, 2), bits(top.aw_id, TL_ID_BITS * c, TL_ID_BITS));
        m.w_valid = bits(top.w_valid, c, 1);
        if (m.w_valid) {
            m.w_last = bits(top.w_last, c, 1);
            m.w_id = bits(top.w_id, TL_ID_BITS * c, TL_ID_BITS);
            m.w_strobe = bits(top.w_strobe, WORD * c, WORD);
            std::memcpy(m.w_data, reinterpret_cast<const uint8_t*>(&top.w_data[0]) + WORD * c, WORD);
        }
        m.r_ready = bits(top.r_ready, c, 1);
        m.b_ready = bits(top.b_ready, c, 1);
        checkers[c].cycle(m, slave, reset);
        if (checkers[c].rule && broken < 0) broken = c;
    }

#ifndef TL_CARD
    bool hold() {
        switch (hold_mode) {
            case 1: return top.en;  // every belt cycle is followed by one that stands still
            case 2:
                random ^= random << 13, random ^= random >> 7, random ^= random << 17;
                return random & 1;
            case 3:  // once per pass: the belt may stand still here anyway
                if (held || !in_pass || !started || uint64_t(belt) != hold_arg) return false;
                return held = true;
            default: return false;
        }
    }
#endif  // TL_CARD

    void record() {
        if (top.restart && !in_pass) {
            in_pass = true;
            started = held = false;
            passes.push_back({});
            Pass& pass = passes.back();
            pass.rows = top.rows_used, pass.pos = top.pos, pass.sample = top.sample;
            for (auto& row : logits) row.clear();
            taps.clear();
        }
        if (top.failed) in_pass = false;  // the rest of this pass will not come
        if (!in_pass) return;
        Pass& pass = passes.back();
        if (started && top.over) {
            in_pass = false;
            return;
        }
        pass.elapsed++;
        if (!top.en) {
            if (top.stall_tape) pass.stall_tape++;
            else if (top.stall_row) pass.stall_row++;
            else if (top.stall_kv) pass.stall_kv++;
            else pass.stall_other++;
            return;
        }
        if (top.restart) {
            started = true;
            belt = 0;
        } else {
            belt++;
        }
        pass.scheduled++;
        pass.beats += top.array_take;
        pass.saturated += top.saturated;
        int number = int(passes.size()) - 1;
        for (int unit = 0; unit < TL_UNITS; unit++) {
            if (started && !top.restart) {
                if ((top.started >> unit) & 1) events.push_back({number, unit, 0, 0, belt});
                if ((top.finished >> unit) & 1) events.push_back({number, unit, 1, 0, belt});
            }
        }
        for (int r = 0; r < R; r++)
            if (bits(top.logit_valid, r, 1))
                logits[r].push_back(int32_t(bits(top.logit, 32 * r, 32)));
#ifdef TL_TAP_WORDS
        if (top.tap_valid) taps.insert(taps.end(), &top.tap[0], &top.tap[0] + TL_TAP_WORDS);
#endif
    }
};

}  // namespace

extern "C" {

// A chip; with a seed of 1 and up one with noise in all that has no initial value.
Chip* tl_new(int seed) { return new Chip(seed); }
uint64_t tl_power_up(Chip* chip) { return chip->power_up; }
void tl_reset(Chip* chip) { chip->reset(); }
void tl_delete(Chip* chip) { delete chip; }

void tl_memory(Chip* chip, int channel, const uint8_t* data, uint64_t size, uint64_t total) {
    auto& memory = chip->memory[channel];
    memory.assign(total, 0);
    std::memcpy(memory.data(), data, size);
    if (!chip->ideal) chip->models[channel]->place(memory.data(), memory.size());
}

// Puts the memory model behind every channel; `timing` is that of sim/memory.py.
void tl_model(Chip* chip, const int64_t* timing, uint64_t seed) {
    MemoryTiming figures;
    std::memcpy(&figures, timing, sizeof figures);
    for (int c = 0; c < C; c++) {
        auto& memory = chip->memory[c];
        chip->models[c] = std::make_unique<MemoryModel>(figures, seed * 256 + uint64_t(c),
                                                        memory.data(), memory.size());
    }
    chip->ideal = false;
}

// An error at one place of one channel.
void tl_error(Chip* chip, int channel, int64_t address, int64_t times) {
    chip->models[channel]->fail_at(address, times);
}

void tl_counters(Chip* chip, int channel, MemoryModel::Counters* to) {
    *to = chip->ideal ? MemoryModel::Counters{} : chip->models[channel]->count;
}

// Bursts that a channel's memory has taken and not answered in full.
int64_t tl_pending(Chip* chip, int channel) {
    return chip->ideal ? int64_t(chip->reads[channel].size()) : chip->models[channel]->pending();
}

// Other limits for the checkers than the chip's own.
void tl_limits(Chip* chip, int64_t reads, int64_t writes) {
    chip->checkers.assign(C, AxiChecker({WORD, reads, writes, LIMITS.patience}));
}

// The channel whose protocol is broken, -1 if none is.
int tl_broken(Chip* chip, const char** rule, const char** text, int64_t* cycle, uint64_t* address) {
    if (chip->broken < 0) return -1;
    const AxiChecker& checker = chip->checkers[chip->broken];
    *rule = axi_rule_name(checker.rule), *text = axi_rule_text(checker.rule);
    *cycle = checker.cycle_of, *address = checker.address_of;
    return chip->broken;
}

// What the chip says of the memory error that ended a request; -1 if there was none.
int tl_fault(Chip* chip, uint64_t* address, int* write) {
    *address = chip->fault_address, *write = chip->fault_write;
    return chip->fault_channel;
}

void tl_peek(Chip* chip, int channel, uint64_t address, uint8_t* to, uint64_t size) {
    std::memcpy(to, chip->memory[channel].data() + address, size);
}

#ifdef TL_COUNTING
// Writes the counts of all branches so far, once.
void tl_counted() { __gcov_dump(); }
#endif

int64_t tl_cycles(Chip* chip) { return chip->cycles; }

int64_t tl_passes(Chip* chip, Pass* to) {
    if (to) std::memcpy(to, chip->passes.data(), chip->passes.size() * sizeof(Pass));
    return int64_t(chip->passes.size());
}

#ifdef TL_CARD

// Lets cycles pass; returns what ended them: 0, 5 (an address outside the memory), 6 (a rule of the
// memory's protocol is broken).
int tl_wait(Chip* chip, int64_t cycles) {
    for (int64_t i = 0; i < cycles; i++) {
        if (chip->fault) return 5;
        if (chip->broken >= 0) return 6;
        chip->cycle();
    }
    return 0;
}

// An AXI4-Lite write: RESP, or -1 when there is no answer within `most` cycles.
int tl_axi_write(Chip* chip, uint32_t address, uint32_t data, uint32_t strobe, int64_t most) {
    Vchip& top = chip->top;
    top.s_axi_awvalid = top.s_axi_wvalid = top.s_axi_bready = 1;
    top.s_axi_awaddr = address, top.s_axi_wdata = data, top.s_axi_wstrb = strobe;
    top.eval();
    for (int64_t i = 0; i < most; i++) {
        bool address_taken = top.s_axi_awready, data_taken = top.s_axi_wready;
        bool answered = top.s_axi_bvalid;
        int response = top.s_axi_bresp;
        chip->cycle();
        if (address_taken) top.s_axi_awvalid = 0;
        if (data_taken) top.s_axi_wvalid = 0;
        if (answered) top.s_axi_bready = 0;
        top.eval();
        if (answered) return response;
    }
    return -1;
}

// An AXI4-Lite read: RESP, or -1.
int tl_axi_read(Chip* chip, uint32_t address, uint32_t* data, int64_t most) {
    Vchip& top = chip->top;
    top.s_axi_arvalid = top.s_axi_rready = 1;
    top.s_axi_araddr = address;
    top.eval();
    for (int64_t i = 0; i < most; i++) {
        bool taken = top.s_axi_arready, answered = top.s_axi_rvalid;
        int response = top.s_axi_rresp;
        *data = top.s_axi_rdata;
        chip->cycle();
        if (taken) top.s_axi_arvalid = 0;
        if (answered) top.s_axi_rready = 0;
        top.eval();
        if (answered) return response;
    }
    return -1;
}

#else

void tl_config(Chip* chip, int select, int address, const uint32_t* words) {
    Vchip& top = chip->top;
    top.cfg_we = 1;
    top.cfg_sel = select;
    top.cfg_addr = address;
    set_words(top.cfg_data, 0, words, 16);
    chip->cycle();
    top.cfg_we = 0;
    for (int i = 0; i < 3; i++) chip->cycle();
}

void tl_hold(Chip* chip, int mode, uint64_t argument) {
    chip->hold_mode = mode;
    chip->hold_arg = argument;
    chip->random = argument | 1;
}

// The sampler's settings of the next request (`hw/sampler/noise.py`, SAMPLING).
void tl_sampling(Chip* chip, const uint32_t* words, int count) {
    set_words(chip->top.req_sampling, 0, words, count);
}

void tl_request(Chip* chip, const uint32_t* tokens, int count, int fresh, int slot,
                const uint32_t* eos, int eos_count) {
    Vchip& top = chip->top;
    chip->prompt.assign(tokens, tokens + count);
    chip->prompt_at = 0;
    top.prompt_valid = 1;
    top.prompt_token = tokens[0];
    top.req_valid = 1;
    top.req_tokens = count;
    top.req_new = fresh;
    top.req_slot = slot;
    top.req_eos_used = (1 << eos_count) - 1;
    for (int i = 0; i < 4; i++) top.req_eos[i] = i < eos_count ? eos[i] : 0;
    top.eval();
}

// Runs until a token comes out. Returns 1 (token), 2 (last token), 3 (request failed),
// 4 (nothing within the cycles allowed), 5 (an address outside the memory), 6 (a rule of the
// memory's protocol is broken), 0 (a pass without a token has ended).
int tl_run(Chip* chip, int64_t most, uint32_t* token) {
    bool was_in_pass = chip->in_pass;
    for (int64_t i = 0; i < most; i++) {
        if (chip->fault) return 5;
        if (chip->broken >= 0) return 6;
        bool out = chip->top.out_valid, last = chip->top.out_last, failed = chip->top.failed;
        *token = chip->top.out_token;
        if (failed) {
            chip->fault_channel = chip->top.fault ? int(chip->top.fault_channel) : -1;
            chip->fault_address = chip->top.fault_addr, chip->fault_write = chip->top.fault_write;
        }
        chip->cycle();
        if (out) return last ? 2 : 1;
        if (failed) {
            // The chip swallows the rest of this prompt before it takes the next request.
            for (; i < most && !chip->top.req_ready; i++) chip->cycle();
            return 3;
        }
        bool ended = was_in_pass && !chip->in_pass;
        was_in_pass = chip->in_pass;
        if (ended && !chip->passes.back().sample) return 0;
    }
    return 4;
}

// Runs a request that nobody listens to any more to its end; 0, or 4 if that takes too long.
int tl_finish(Chip* chip, int64_t most) {
    for (int64_t i = 0; i < most; i++) {
        if (chip->top.req_ready && !chip->top.req_valid) return 0;
        chip->cycle();
    }
    return 4;
}

int64_t tl_events(Chip* chip, Event* to) {
    if (to) std::memcpy(to, chip->events.data(), chip->events.size() * sizeof(Event));
    return int64_t(chip->events.size());
}
void tl_clear_events(Chip* chip) { chip->events.clear(); }
int64_t tl_logits(Chip* chip, int row, int32_t* to) {
    auto& logits = chip->logits[row];
    if (to) std::memcpy(to, logits.data(), logits.size() * 4);
    return int64_t(logits.size());
}

int64_t tl_taps(Chip* chip, uint32_t* to) {
    if (to) std::memcpy(to, chip->taps.data(), chip->taps.size() * 4);
    return int64_t(chip->taps.size());
}

#endif  // TL_CARD

}  // extern "C"
