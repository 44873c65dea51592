declare module "plotly.js-basic-dist-min" {
  const plotly: {
    react(element: HTMLElement, data: object[], layout: object, config: object): Promise<unknown>;
  };
  export default plotly;
}
