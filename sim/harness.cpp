// Drives the verilated chip: an ideal memory behind its channels, requests, and the record of a run.
// Built with the macros TL_COLUMNS, TL_ROWS, TL_PORT_BYTES, TL_ADDR_BITS, TL_UNITS; with TL_TAP_WORDS
// when the chip shows every operation's output.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "Vchip.h"  // the simulator's top: the chip with its inputs registered
#include "verilated.h"

namespace {

constexpr int C = TL_COLUMNS;
constexpr int R = TL_ROWS;
constexpr int WORD = TL_PORT_BYTES;
constexpr int LANES = WORD / 4;

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

struct Burst {
    uint64_t address;
    int words;
};

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
    Vchip top{&context};
    std::vector<std::vector<uint8_t>> memory{C};
    std::deque<Burst> reads[C];
    bool answering[C] = {};
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

    Chip() {
        reset();
        top.ar_ready = (1ull << C) - 1;
        top.w_ready = (1ull << C) - 1;
    }

    // The chip's memories keep what they hold.
    void reset() {
        top.rst = 1;
        for (int i = 0; i < 4; i++) edge();
        top.rst = 0;
        for (int i = 0; i < 2; i++) edge();
        for (auto& queue : reads) queue.clear();
        std::memset(answering, 0, sizeof answering);
        top.r_valid = 0;
        top.b_valid = 0;
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
        uint64_t valid = 0, acknowledged = 0;
        for (int c = 0; c < C; c++) {
            if (answering[c] && (bits(top.r_ready, c, 1))) {
                Burst& burst = reads[c].front();
                burst.address += WORD;
                if (--burst.words == 0) reads[c].pop_front();
                answering[c] = false;
            }
        }
        // What the chip says in this cycle is taken at its end.
        struct { bool ar, w; uint64_t address; int words; } taken[C];
        for (int c = 0; c < C; c++) {
            taken[c].ar = bits(top.ar_valid, c, 1);
            if (taken[c].ar) {
                taken[c].address = bits(top.ar_addr, c * TL_ADDR_BITS, TL_ADDR_BITS);
                taken[c].words = int(bits(top.ar_len, 4 * c, 4)) + 1;
            }
            taken[c].w = bits(top.w_valid, c, 1);
            if (taken[c].w) {
                uint64_t address = bits(top.w_addr, 32 * c, 32);
                if (uint8_t* to = at(c, address)) {
                    for (int i = 0; i < WORD; i++)
                        if (bits(top.w_strobe, WORD * c + i, 1))
                            to[i] = uint8_t(bits(top.w_data, 8 * (WORD * c + i), 8));
                }
                acknowledged |= 1ull << c;
            }
        }
        bool prompt_taken = top.prompt_valid && top.prompt_ready;
        bool request_taken = top.req_valid && top.req_ready;
        rise();
        for (int c = 0; c < C; c++) {
            if (!reads[c].empty() && !answering[c]) {
                const uint8_t* from = at(c, reads[c].front().address);
                if (from) {
                    uint32_t words[LANES];
                    std::memcpy(words, from, WORD);
                    set_words(top.r_data, c * LANES, words, LANES);
                }
                answering[c] = true;
            }
            if (answering[c]) valid |= 1ull << c;
            if (taken[c].ar) reads[c].push_back({taken[c].address, taken[c].words});
        }
        top.r_valid = valid;
        top.b_valid = acknowledged;
        if (prompt_taken) prompt_at++;
        top.prompt_valid = prompt_at < prompt.size();
        if (top.prompt_valid) top.prompt_token = prompt[prompt_at];
        if (request_taken) top.req_valid = 0;
        top.hold = hold();
        fall();
    }

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

Chip* tl_new() { return new Chip; }
void tl_reset(Chip* chip) { chip->reset(); }
void tl_delete(Chip* chip) { delete chip; }

void tl_memory(Chip* chip, int channel, const uint8_t* data, uint64_t size, uint64_t total) {
    auto& memory = chip->memory[channel];
    memory.assign(total, 0);
    std::memcpy(memory.data(), data, size);
}

void tl_peek(Chip* chip, int channel, uint64_t address, uint8_t* to, uint64_t size) {
    std::memcpy(to, chip->memory[channel].data() + address, size);
}

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

// Seed and temperature of the next request (`hw/noise.py`, SAMPLING).
void tl_sampling(Chip* chip, const uint32_t* words) {
    set_words(chip->top.req_sampling, 0, words, 3);
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
// 4 (nothing within the cycles allowed), 5 (an address outside the memory), 0 (a pass without a
// token has ended).
int tl_run(Chip* chip, int64_t most, uint32_t* token) {
    bool was_in_pass = chip->in_pass;
    for (int64_t i = 0; i < most; i++) {
        if (chip->fault) return 5;
        bool out = chip->top.out_valid, last = chip->top.out_last, failed = chip->top.failed;
        *token = chip->top.out_token;
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

int64_t tl_cycles(Chip* chip) { return chip->cycles; }
int64_t tl_passes(Chip* chip, Pass* to) {
    if (to) std::memcpy(to, chip->passes.data(), chip->passes.size() * sizeof(Pass));
    return int64_t(chip->passes.size());
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

}  // extern "C"
