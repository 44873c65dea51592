/** Which stages of the path are done. */
export const Stages = ({ all, done }: { all: readonly string[]; done: readonly string[] }) => (
  <ol class="stages" aria-label="Stages">
    {all.map((stage) => (
      <li key={stage} class={done.includes(stage) ? "done" : ""}>
        {stage}
        <span class="unseen">{done.includes(stage) ? " done" : " not done"}</span>
      </li>
    ))}
  </ol>
);
