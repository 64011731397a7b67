/* The emulation's half of launch(). Include dev.h, never this. */
#ifndef KERNELS_EMU_EMU_LAUNCH_H
#define KERNELS_EMU_EMU_LAUNCH_H

#include <new>

template <class... P, class... A>
static inline void launch_named(const char *name, const launch_cfg &cfg, void (*kernel)(P...),
                                A... args)
{
    auto body = [=] { kernel(static_cast<P>(args)...); };
    typedef decltype(body) body_t;
    static_assert((std::is_trivially_copyable<P>::value && ...), "arguments are plain data");
    static_assert(sizeof(body_t) <= EMU_ARGS_MAX, "arguments take at most 4 KiB");
    emu_launch launch;
    launch.args_bytes = sizeof(body_t);
    launch.name = name;
    launch.grid = cfg.grid;
    launch.block = cfg.block;
    launch.smem = cfg.smem;
    launch.is_pdl = cfg.is_pdl;
    launch.call = [](const void *p) { (*static_cast<const body_t *>(p))(); };
    new (launch.args) body_t(body);
    emu_queue(cfg.stream, launch);
}

#endif
