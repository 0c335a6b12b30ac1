// The library's own threads: they run the units of one call at a time.
//
// XLA's pool wakes a sleeping thread for every call, which costs a decode step of a hundred
// short calls a tenth of its time. These stay awake for kSpin after a call, in case the next
// comes at once, and then sleep: nothing spins while nothing runs. The caller works too and
// waits only for units that a thread has claimed, so it cannot deadlock: with every thread
// asleep or busy, it does all the work itself. A call that comes while another runs is done
// by its caller alone. After a fork the child has a pool of its own.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "float_mode.h"

#if defined(__linux__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace bitnet {

static inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

class Pool {
 public:
  // Never destroyed: a thread of it may still run when the process ends.
  static Pool& Get() {
#if defined(__linux__) || defined(__APPLE__)
    static const int after_fork = pthread_atfork(nullptr, nullptr, [] {
      const int64_t threads = Made()->threads();
      new (Made()) Pool;  // of the old one's threads the child has none
      Made()->SetThreads(threads);
    });
    static_cast<void>(after_fork);
#endif
    return *Made();
  }

  // Threads of a call, the caller included.
  int64_t threads() const { return threads_.load(std::memory_order_relaxed); }

  // 0: one for each processor that this process may run on.
  void SetThreads(int64_t count) {
    if (count <= 0) count = Processors();
    threads_.store(count < kMaxThreads ? count : kMaxThreads, std::memory_order_relaxed);
  }

  // Runs fn(i) for 0 <= i < count in any order; returns when all are done.
  template <typename Fn>
  void Run(int64_t count, int64_t threads, const Fn& fn) {
    if (threads > count) threads = count;
    if (threads <= 1 || !busy_.try_lock()) {
      for (int64_t i = 0; i < count; ++i) fn(i);
      return;
    }
    Start(threads - 1);
    const uint32_t epoch = ++epoch_;
    call_.store([](const void* f, int64_t i) { (*static_cast<const Fn*>(f))(i); },
                std::memory_order_relaxed);
    fn_.store(&fn, std::memory_order_relaxed);
    count_.store(count, std::memory_order_release);
    helpers_.store(threads - 1, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(Ticket(epoch, 0), std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) > 0) {
      const std::lock_guard<std::mutex> lock(sleep_);
      wake_.notify_all();
    }
    Work(epoch);
    for (int spins = 0; done_.load(std::memory_order_acquire) < count; ++spins) {
      // Its thread may have lost its processor.
      if (spins < 4096) Pause(); else std::this_thread::yield();
    }
    // Closed: a thread that comes late finds no unit, whatever the next call has stored by then.
    ticket_.store(Ticket(epoch, kClosed), std::memory_order_release);
    busy_.unlock();
  }

 private:
  using Call = void (*)(const void*, int64_t);
  static constexpr int64_t kMaxThreads = 256;
  static constexpr uint32_t kClosed = UINT32_MAX;  // above any count
  static constexpr std::chrono::microseconds kSpin{100};

  Pool() { SetThreads(0); }

  static Pool* Made() {
    static Pool* const pool = new Pool;
    return pool;
  }

  static int64_t Processors() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
    const int64_t found = std::thread::hardware_concurrency();
    return found > 0 ? found : 1;
  }

  // A ticket is the call's number and the next unit's: a thread that comes late cannot
  // claim a unit of a later call for an earlier one.
  static uint64_t Ticket(uint32_t epoch, uint32_t next) {
    return static_cast<uint64_t>(epoch) << 32 | next;
  }

  void Start(int64_t helpers) {
    // Where the system gives no more threads, the work is done by those there are.
    try {
      for (; started_ < helpers; ++started_)
        std::thread([this, index = started_] { Serve(index); }).detach();
    } catch (const std::system_error&) {
      return;
    }
  }

  void Work(uint32_t epoch) {
    // These are the call's own if a claim below succeeds: its ticket is closed before the next
    // call's are stored.
    const Call call = call_.load(std::memory_order_relaxed);
    const void* fn = fn_.load(std::memory_order_relaxed);
    const int64_t count = count_.load(std::memory_order_acquire);
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
      const uint32_t next = static_cast<uint32_t>(ticket);
      if (ticket >> 32 != epoch || next >= count) return;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel,
                                         std::memory_order_acquire))
        continue;
      call(fn, next);
      done_.fetch_add(1, std::memory_order_release);
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  void Serve(int64_t index) {
    const IeeeFloats floats;  // as long as the thread lives; callers have their own
    uint32_t seen = 0;
    for (;;) {
      seen = Await(seen);
      // Fewer threads may be wanted now than were started.
      if (index < helpers_.load(std::memory_order_relaxed)) Work(seen);
    }
  }

  // Returns the number of the next call after `seen`.
  uint32_t Await(uint32_t seen) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int spins = 0; spins < 64; ++spins) {
        const uint32_t epoch = Epoch();
        if (epoch != seen) return epoch;
        Pause();
      }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(sleep_);
    asleep_.fetch_add(1, std::memory_order_seq_cst);
    while (Epoch() == seen) wake_.wait(lock);
    asleep_.fetch_sub(1, std::memory_order_relaxed);
    return Epoch();
  }

  uint32_t Epoch() const {
    return static_cast<uint32_t>(ticket_.load(std::memory_order_seq_cst) >> 32);
  }

  std::mutex busy_;        // held by the caller whose units run
  uint32_t epoch_ = 0;     // written under busy_
  int64_t started_ = 0;    // written under busy_
  std::atomic<int64_t> threads_{1};
  std::atomic<Call> call_{nullptr};
  std::atomic<const void*> fn_{nullptr};
  std::atomic<int64_t> count_{0}, helpers_{0};
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int64_t> asleep_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
};

}  // namespace bitnet
