# The fakes come before the rooms: fake_store.c stands in for adapters/store.c.
graft_test(sim_test sim/sim_test.c engine)
target_sources(sim_test PRIVATE sim/client.c sim/fake_model.c sim/fake_rank.c sim/fake_store.c)
graft_test(start_test sim/start_test.c engine)
target_sources(start_test PRIVATE sim/client.c sim/fake_model.c sim/fake_rank.c sim/fake_store.c)
