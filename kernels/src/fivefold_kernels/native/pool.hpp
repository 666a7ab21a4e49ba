// Threads that run one pass together: the caller is one of them, barriers part the stages.
//
// Whoever waits spins for a moment and then yields to any other thread that wants the core, so that a
// busy machine slows a pass down but never stops it. Between passes the team lingers for a
// millisecond, as waking it takes longer than a small pass, and then sleeps.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <sched.h>
#include <unistd.h>

#include "rows.hpp"
#include "simd.hpp"

namespace ff {

FF_INLINE void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

class Team {
 public:
  explicit Team(int size) : size_(size), owner_(getpid()) {
    for (int t = 1; t < size; ++t) threads_.emplace_back([this, t] { serve(t); });
  }

  ~Team() {
    {
      std::lock_guard<std::mutex> hold(mutex_);
      work_ = nullptr;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  int size() const { return size_; }
  // After a fork the threads stayed behind in the parent.
  bool is_alive() const { return owner_ == getpid(); }
  void abandon() {
    for (auto& thread : threads_) thread.detach();
    threads_.clear();
  }

  void run(void (*work)(void*, Team&, int), void* context) {
    if (size_ > 1) {
      std::lock_guard<std::mutex> hold(mutex_);
      work_ = work;
      context_ = context;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work(context, *this, 0);
    barrier();
  }

  void barrier() {
    if (size_ == 1) return;
    const unsigned mine = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(mine + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == mine; ++spins) {
      if (spins < kSpins)
        pause_cpu();
      else
        sched_yield();
    }
  }

 private:
  // Pauses before giving the processor away: the other threads may be waiting for this very one.
  static constexpr int kSpins = 256;

  static constexpr double kLinger = 1e-3;  // seconds

  void linger(unsigned seen) const {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; epoch_.load(std::memory_order_acquire) == seen; ++i) {
      if (i < kSpins) {
        pause_cpu();
        continue;
      }
      const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
      if (waited.count() > kLinger) return;
      sched_yield();
    }
  }

  void serve(int t) {
    unsigned seen = 0;
    while (true) {
      linger(seen);
      {
        std::unique_lock<std::mutex> hold(mutex_);
        wake_.wait(hold, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
        seen = epoch_.load(std::memory_order_acquire);
      }
      if (work_ == nullptr) return;
      work_(context_, *this, t);
      barrier();
    }
  }

  const int size_;
  const pid_t owner_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> epoch_{0};
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> phase_{0};
  void (*work_)(void*, Team&, int) = nullptr;
  void* context_ = nullptr;
};

// The process's team of a size; calls from several Python threads take turns.
class Teams {
 public:
  static void run(int size, void (*work)(void*, Team&, int), void* context) {
    static std::mutex turn;
    static std::unique_ptr<Team> team;
    std::lock_guard<std::mutex> hold(turn);
    if (team && !team->is_alive()) {
      team->abandon();
      team.release();
    }
    if (!team || team->size() != size) team = std::make_unique<Team>(size);
    team->run(work, context);
  }
};

}  // namespace ff
